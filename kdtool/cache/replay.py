"""Kept outputs as the engine replays them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdtool.cache.part import LOGITS, Part, in_view
from kdtool.cache.store import Place, Store
from kdtool.engine.teaching import VIEW
from kdtool.method import Out

RESIDENT = 1 << 30
"""Caches up to this many bytes are read whole, every checksum verified, and live in memory; larger ones are mapped."""

DEVICE_SHARE = 0.25
"""They live on the GPU where they take no more than this share of its free memory, else beside it."""


class Outputs:
    """A part of a cache, by position and view.

    Args:
        store: sound and complete.
        part: which, in so many views as are wanted.
        resident: read into memory; else map the files.
        device: where outputs go.
        dtype: of the outputs.
    """

    def __init__(self, store: Store, part: Part, resident: bool, device: torch.device, dtype: torch.dtype):
        self.part, self.device, self.dtype = part, device, dtype
        self.shard_rows, self.samples = store.manifest.shard_rows, store.manifest.samples
        paths = store.found(part)
        shards = {at: store.open(part, at, paths[at], whole=False) for at in store.manifest.places(part)}
        self.mapped: dict[Place, np.ndarray] = {} if resident else shards
        self.kept = self._join(list(shards.values())) if resident else {}

    def _join(self, shards: list[np.ndarray]) -> dict[str, Tensor]:
        """Return each field of all views' rows in a row; a later view's sample is a number of rows further down."""
        size = sum(shard.nbytes for shard in shards)
        fits = self.device.type != "cuda" or size <= torch.cuda.mem_get_info(self.device)[0] * DEVICE_SHARE
        place = self.device if fits else torch.device("cpu")
        names = self.part.row.names or ()
        return {name: torch.from_numpy(np.concatenate([s[name] for s in shards])).to(place) for name in names}

    def __call__(self, index_B: Tensor, view: int) -> Tensor:
        """Return (B, width) outputs for positions in the training set."""
        if self.kept:
            at = index_B + view * self.samples
            stored = {name: field.index_select(0, at.to(field.device)) for name, field in self.kept.items()}
        else:
            stored = self._mapped_rows(index_B.cpu().numpy(), view)
        return self.part.decode({n: field.to(self.device) for n, field in stored.items()}, self.dtype)

    def _mapped_rows(self, index: np.ndarray, view: int) -> dict[str, Tensor]:
        rows = np.empty(len(index), dtype=self.part.row)
        blocks = index // self.shard_rows
        for block in np.unique(blocks):
            here = blocks == block
            rows[here] = self.mapped[Place(view, int(block))][index[here] - block * self.shard_rows]
        return {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in self.part.row.names or ()}


class ReplayedTeacher:
    """One teacher's kept outputs.

    Args:
        parts: by name.
        roles: for each tapped role that is kept, the parts of its layers.
        single: the roles that tap one layer, not a list.
        further: the further views that are kept as well.
    """

    def __init__(
        self,
        parts: Mapping[str, Outputs],
        roles: Mapping[str, Sequence[str]],
        single: Mapping[str, bool],
        further: Sequence[str] = (),
    ):
        self.parts, self.roles, self.single, self.further = parts, roles, single, further

    @property
    def gives(self) -> frozenset[str]:
        """What a stage may read of it: roles, in further views too."""
        more = {f"{view}/{role}" for view in self.further for role in self.roles}
        return frozenset({*self.roles, *more, *(f"{VIEW}{view}" for view in self.further)})

    def __call__(self, index_B: Tensor, view: int) -> Out:
        found = {name: part(index_B, view) for name, part in self.parts.items()}
        out = self._out(found, lambda name: name)
        views = {further: self._out(found, partial(in_view, further)) for further in self.further}
        return replace(out, views=views)

    def _out(self, found: Mapping[str, Tensor], key: Callable[[str], str]) -> Out:
        taps = {
            role: found[key(names[0])] if self.single[role] else [found[key(name)] for name in names]
            for role, names in self.roles.items()
        }
        return Out(found[key(LOGITS)], taps)


class Replayed:
    """What the engine asks for the teachers' outputs.

    Attributes:
        roles: for each teacher the roles it gives; logits it always gives.
    """

    def __init__(self, teachers: Sequence[ReplayedTeacher], folders: Sequence[Path]):
        self.teachers, self.folders = teachers, folders
        self.roles: Sequence[frozenset[str]] = [teacher.gives for teacher in teachers]

    def outputs(self, index: Tensor, view: int) -> list[Out]:
        """Return each teacher's outputs for (B,) positions in the training set, on the run's device."""
        return [teacher(index, view) for teacher in self.teachers]
