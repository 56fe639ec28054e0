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

from kdtool.cache.part import LOGITS, Part
from kdtool.cache.store import Place, Store
from kdtool.engine.precision import Precision, let_tf32
from kdtool.engine.teaching import FrozenTeachers
from kdtool.errors import InputError
from kdtool.method import Out

BATCH = 128
"""Samples in a forward; fixed, so that who computes a shard, and after which others, changes none of its bytes."""

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
            positions = torch.tensor(store.manifest.rows_of(place))
            turns = self._turns(positions)
            for loaded in self.batches.view(place.view, list(positions[turns].split(BATCH))):
                out = teacher(loaded.inputs)[0]
                for part in parts:
                    rows[part.name].append(part.encode(self._output(out, part)))
                done += len(loaded.index)
                check()
                if time.monotonic() - spoke > SPEAK_S:
                    spoke = time.monotonic()
                    say(f"teacher cache: {number} of {len(share)} shards, {done / (spoke - began):.0f} samples/s")
            back = turns.argsort().numpy()
            for part in parts:
                store.write(part, place, np.concatenate(rows[part.name])[back])

    def _turns(self, positions: Tensor) -> Tensor:
        """Return in which order samples are computed: of like length together, so that little of a batch is padding."""
        lengths = self.batches.lengths
        if lengths is None:
            return torch.arange(len(positions))
        return torch.from_numpy(lengths)[positions].argsort(stable=True)

    def _output(self, out: Out, part: Part) -> Tensor:
        if part.name == LOGITS:
            return out.logits
        for role, keys in self.network.network.roles.items():
            if part.name in keys:
                tap = out.taps[role]
                found: Tensor = tap if isinstance(tap, Tensor) else tap[keys.index(part.name)]
                return found
        raise KeyError(part.name)


def refuse_without_room(store: Store, missing: Mapping[Place, Sequence[Part]]) -> None:
    """Refuse to begin what the disk cannot take.

    Raises:
        InputError: there is less room than the missing shards need.
    """
    rows_of = store.manifest.rows_of
    needed = sum(len(rows_of(place)) * part.row.itemsize for place, parts in missing.items() for part in parts)
    there = next(folder for folder in (store.folder, *store.folder.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"the teacher cache needs {needed} bytes and {there} has {free} free: make room, set KDTOOL_HOME to a "
            "larger disk, keep less (cache.top_k=, cache.dtype=fp16, fewer data.views), or leave it out "
            "(cache.mode=off)."
        )
