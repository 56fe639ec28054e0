"""A cache's shards computed: by this process, or by several at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.cache.part import LOGITS, Part, in_view
from kdtool.cache.store import Place, Store
from kdtool.engine.precision import Precision, let_tf32
from kdtool.engine.rows import Late, chunks, whole
from kdtool.engine.teaching import FrozenTeachers
from kdtool.errors import InputError
from kdtool.method import Out

BATCH = 128
"""Samples in a forward; fixed, so that who computes a shard, and after which others, changes none of its bytes."""

ROWS = 1024
"""Rows in a forward at most, where samples have several: their logits are there at once. A sample is never cut."""

SPEAK_S = 30.0
"""Seconds between two words about a long build."""


@dataclass
class Source:
    """What computes a teacher's outputs.

    Attributes:
        network: tapped; takes the batches' inputs.
        precision: of its forward.
        batches: the student's training set, its samples as they are trained on; gives views of samples by number.
            Where samples are of different lengths, a forward takes some of like length.
        layout: memory layout of the weights.
        tf32: let CUDA multiply in TF32.
    """

    network: Any
    precision: Precision
    batches: Any
    layout: torch.memory_format
    tf32: bool

    @torch.no_grad()
    def build(
        self, store: Store, share: Iterable[tuple[Place, Sequence[Part]]], check: Callable[[], None], say: Any
    ) -> None:
        """Compute and write shards.

        Args:
            store: where they go.
            share: places, each with the parts that lack there.
            check: called after each batch; what it raises ends the work.
            say: told now and then how far it is.
        """
        let_tf32(self.tf32)
        teacher = FrozenTeachers([self.network], self.precision, self.layout)
        share, spoke, began, done = list(share), time.monotonic(), time.monotonic(), 0
        for number, (place, parts) in enumerate(share):
            rows: dict[str, list[np.ndarray]] = {part.name: [] for part in parts}
            positions = torch.tensor(store.manifest.samples_of(place))
            turns = self._turns(positions)
            for loaded in self.batches.view(place.view, self._forwards(positions[turns])):
                out = teacher(loaded.inputs)[0]
                for part in parts:
                    found = self._output(out, part)
                    rows[part.name] += [part.encode(whole(piece)) for piece in found.split(chunks(found))]
                done += loaded.samples
                check()
                if time.monotonic() - spoke > SPEAK_S:
                    spoke = time.monotonic()
                    say(f"teacher cache: {number} of {len(share)} shards, {done / (spoke - began):.0f} samples/s")
            back = self._numbers(positions, turns).argsort(stable=True).numpy()
            for part in parts:
                store.write(part, place, np.concatenate(rows[part.name])[back])

    def _turns(self, positions: Tensor) -> Tensor:
        """Return in which order samples are computed: of like length together, so that little of a batch is padding."""
        lengths = getattr(self.batches, "lengths", None)
        if lengths is None:
            return torch.arange(len(positions))
        return torch.from_numpy(lengths)[positions].argsort(stable=True)

    def _numbers(self, positions: Tensor, turns: Tensor) -> Tensor:
        """Return of each row, as computed, which of the positions it belongs to."""
        offsets = getattr(self.batches, "offsets", None)
        if offsets is None:
            return turns
        own = torch.from_numpy(offsets)
        return turns.repeat_interleave((own[positions + 1] - own[positions])[turns])

    def _forwards(self, positions: Tensor) -> list[Tensor]:
        """Return positions in parts that are computed at once: a function of these alone."""
        offsets = getattr(self.batches, "offsets", None)
        if offsets is None:
            return list(positions.split(BATCH))
        sizes = [0]
        rows = 0
        first = positions.numpy()
        for own in (offsets[first + 1] - offsets[first]).tolist():
            if sizes[-1] == BATCH or (sizes[-1] and rows + own > ROWS):
                sizes, rows = [*sizes, 0], 0
            sizes[-1], rows = sizes[-1] + 1, rows + own
        return list(positions.split(sizes))

    def _output(self, out: Out, part: Part) -> Tensor | Late:
        for view, each in ((None, out), *out.views.items()):
            named: dict[str, Any] = {LOGITS: each.logits}
            for role, keys in self.network.network.roles.items():
                tap = each.taps[role]
                named |= dict(zip(keys, [tap] if isinstance(tap, Tensor) else tap, strict=True)) | named
            for name, tensor in named.items():
                if part.name == (name if view is None else in_view(view, name)):
                    found: Tensor | Late = tensor
                    return found
        raise KeyError(part.name)


def refuse_without_room(store: Store, missing: Mapping[Place, Sequence[Part]]) -> None:
    """Refuse to begin what the disk cannot take.

    Raises:
        InputError: there is less room than the missing shards need.
    """
    needed = sum(store.manifest.count(place) * part.row.itemsize for place, parts in missing.items() for part in parts)
    there = next(folder for folder in (store.folder, *store.folder.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"the teacher cache needs {needed} bytes and {there} has {free} free: make room, set KDTOOL_HOME to a "
            "larger disk, keep less (cache.top_k=, cache.dtype=fp16, fewer data.views), or leave it out "
            "(cache.mode=off)."
        )
