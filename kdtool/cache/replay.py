"""Kept outputs as the engine replays them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.cache.part import LOGITS, Part, in_view
from kdtool.cache.store import Place, Store
from kdtool.engine.rows import Late
from kdtool.engine.staging import Staging
from kdtool.engine.teaching import VIEW
from kdtool.method import Out

RESIDENT = 1 << 30
"""Caches up to this many bytes are read whole, every checksum verified, and live in memory; larger ones are mapped."""

DEVICE_SHARE = 0.25
"""Those of any size live on the GPU where they take no more than this share of its free memory."""


def resident(size: int, device: torch.device) -> bool:
    """Tell whether so many bytes are read whole: from mapped files each step's rows wait for the host."""
    return size <= RESIDENT or _fits(size, device)


def _fits(size: int, device: torch.device) -> bool:
    return device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE


@dataclass(frozen=True)
class Kept:
    """Logits of which a cache holds the largest: the others are made up when they are wanted.

    Attributes:
        stored: fields by name, R rows each.
        outputs: where they are from.
    """

    stored: Mapping[str, Tensor]
    outputs: Outputs

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        return len(self.stored["rest"]), self.outputs.part.width

    def whole(self, beside: Tensor | None = None) -> Tensor:
        """Return (R, K) logits; the unknown ones follow the student's, given as ``beside``, where that is asked for."""
        return self.outputs.part.decode(self.stored, self.outputs.dtype, self.outputs.rest, beside)

    def split(self, sizes: Sequence[int]) -> list[Late]:
        """Return parts of so many rows."""
        fields = zip(*(field.split(list(sizes)) for field in self.stored.values()), strict=True)
        return [Kept(dict(zip(self.stored, each, strict=True)), self.outputs) for each in fields]


class Outputs:
    """A part of a cache, by position and view.

    Args:
        store: sound and complete.
        part: which, in so many views as are wanted.
        resident: read into memory; else map the files.
        device: where outputs go.
        dtype: of the outputs.
        rest: see ``cache.rest``.
    """

    def __init__(
        self, store: Store, part: Part, resident: bool, device: torch.device, dtype: torch.dtype, rest: str = "even"
    ):
        self.part, self.device, self.dtype, self.rest = part, device, dtype, rest
        self.ends = store.manifest.ends
        paths = store.found(part)
        shards = {at: store.open(part, at, paths[at], whole=False) for at in store.manifest.places(part)}
        self.mapped: dict[Place, np.ndarray] = {} if resident else shards
        self.place = torch.device("cpu")
        self.kept = self._join(list(shards.values())) if resident else {}
        self.send = Staging(device)

    def _join(self, shards: list[np.ndarray]) -> dict[str, Tensor]:
        """Return each field of all views' rows in a row; a later view's sample is a number of rows further down."""
        size = sum(shard.nbytes for shard in shards)
        names = self.part.row.names or ()
        if _fits(size, self.device):  # shard by shard: the host need not hold it twice
            self.place = self.device
            return {n: torch.cat([torch.from_numpy(s[n].copy()).to(self.device) for s in shards]) for n in names}
        self.place = self.place if self.device.type == "cuda" else self.device
        return {n: torch.from_numpy(np.concatenate([s[n] for s in shards])).to(self.place) for n in names}

    def __call__(self, index_B: Tensor, view: int, positions_B: Tensor | None = None) -> Any:
        """Return (B, width) outputs for rows of the training set: a tensor, or ``Kept`` where only some are known.

        Rows that are not on the device are looked up by the host and sent there through pinned memory, for which it
        need not wait for the device: while it is no more than two calls ahead, as ``Staging`` says.

        Args:
            index_B: the rows' numbers, int64.
            view: which view of the samples.
            positions_B: the same numbers on the CPU; None: the host fetches them, and waits.
        """
        if self.kept and self.place.type != "cpu":
            found = self._kept_rows(index_B.to(self.place), view)
        else:
            at_B = index_B.cpu() if positions_B is None else positions_B
            found = self.send(self._kept_rows(at_B, view) if self.kept else self._mapped_rows(at_B.numpy(), view))
        return self.part.decode(found, self.dtype) if self.part.top_k is None else Kept(found, self)

    def _kept_rows(self, index: Tensor, view: int) -> dict[str, Tensor]:
        at = index + view * int(self.ends[-1])
        return {name: field.index_select(0, at) for name, field in self.kept.items()}

    def _mapped_rows(self, index: np.ndarray, view: int) -> dict[str, Tensor]:
        rows = np.empty(len(index), dtype=self.part.row)
        blocks = np.searchsorted(self.ends, index, side="right")
        for block in np.unique(blocks):
            here = blocks == block
            rows[here] = self.mapped[Place(view, int(block))][index[here] - (self.ends[block - 1] if block else 0)]
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

    def __call__(self, index_B: Tensor, view: int, positions_B: Tensor | None = None) -> Out:
        found = {name: part(index_B, view, positions_B) for name, part in self.parts.items()}
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

    def outputs(self, index: Tensor, view: int, positions: Tensor | None = None) -> list[Out]:
        """Return each teacher's outputs for (B,) rows of the training set, on the run's device; see ``Replay``."""
        return [teacher(index, view, positions) for teacher in self.teachers]
