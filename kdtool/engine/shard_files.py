"""Tensors that no process has whole, on disk: each process writes its parts, and any number of them read their own.

torch's distributed checkpoints in the form of safetensors files, which say in their headers where each part belongs:
nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.processes import is_main, wait_for_all, world_size
from kdtool.engine.shards import here, is_shard, like
from kdtool.errors import InputError, RunError


@dataclass(frozen=True)
class Stored:
    """A tensor whose parts are in files.

    Attributes:
        folder: of the files.
        name: there.
    """

    folder: Path
    name: str


def split_off(state: Any, parts: dict[str, Tensor]) -> Any:
    """Return a tree with names in place of the tensors that are not whole; they join ``parts`` under these.

    Weights that are tied have one name: safetensors writes no memory twice.
    """
    names: dict[tuple[int, int, torch.Size], str] = {}

    def split(state: Any) -> Any:
        if is_shard(state):
            name = f"s{len(parts):06d}"
            own = here(state).untyped_storage()
            if own.nbytes():  # else this process has nothing of it, and others' is not tied either
                name = names.setdefault((own.data_ptr(), int(here(state).storage_offset()), state.shape), name)
            parts.setdefault(name, state.detach())
            return Stored(Path(), name)
        if isinstance(state, Mapping):
            return {key: split(item) for key, item in state.items()}
        return [split(item) for item in state] if isinstance(state, (list, tuple)) else state

    return split(state)


def write_parts(folder: Path, parts: Mapping[str, Tensor]) -> Path:
    """Write this process's parts of tensors; all processes have to.

    Args:
        folder: which all of them share; emptied before.
        parts: by name, the same names everywhere.

    Raises:
        RunError: one of them could not be written.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    if is_main() and folder.exists():
        for left in folder.iterdir():  # of a run that was killed
            left.unlink()
    wait_for_all()
    try:
        save(dict(parts), storage_writer=_files().HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise RunError(f"{folder.parent} cannot be written: {_first(error)}") from error
    return folder


def fill(state: Any, targets: Any) -> Any:
    """Return a checkpoint's tree with tensors divided, or not, as those at the same places of another tree are.

    Args:
        state: with whole tensors, equal on all processes, and stored ones, which are read.
        targets: with tensors of the same shape, which are not changed; where it has no such place, a tensor stays.

    Raises:
        RunError: files cannot be read.
    """
    wanted: dict[Stored, Tensor] = {}
    _collect(state, targets, wanted)
    for folder in {stored.folder for stored in wanted}:
        _read(folder, {stored.name: tensor for stored, tensor in wanted.items() if stored.folder == folder})
    return _filled(state, targets, wanted)


def _collect(state: Any, targets: Any, wanted: dict[Stored, Tensor]) -> None:
    if isinstance(state, Stored):
        if not isinstance(targets, Tensor):
            raise KeyError(state.name)
        wanted[state] = torch.empty_like(targets)
    elif isinstance(state, Mapping):
        for key, item in state.items():
            _collect(item, _at(targets, key), wanted)


def _filled(state: Any, targets: Any, read: Mapping[Stored, Tensor]) -> Any:
    if isinstance(state, Stored):
        return read[state]
    if isinstance(state, Mapping):
        return {key: _filled(item, _at(targets, key), read) for key, item in state.items()}
    fits = isinstance(state, Tensor) and isinstance(targets, Tensor) and state.shape == targets.shape
    return like(state, targets) if fits else state


def _at(targets: Any, key: Any) -> Any:
    return targets.get(key) if isinstance(targets, Mapping) else None


def _read(folder: Path, into: dict[str, Any]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = _files().HuggingFaceStorageReader(str(folder))
    try:
        load(into, storage_reader=reader, no_dist=world_size() == 1)
    except CheckpointException as error:
        raise RunError(f"{folder} cannot be read: {_first(error)}") from error


def _first(error: Any) -> str:
    """Return what the first process that failed says; the whole message is every process's traceback."""
    failures = list(getattr(error, "failures", {}).values())
    lines = str(failures[0][0] if failures else error).split("\n")
    return next((line.strip()[:200] for line in lines if line.strip()), "it does not say why")


def _files() -> Any:
    try:
        from torch.distributed.checkpoint import hf_storage
    except ImportError as error:
        raise InputError("parallel.shard=fsdp needs a newer torch, which keeps parts of tensors in files.") from error
    return hf_storage


def moments_like(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return, as targets of an optimizer's saved state, the parameter that each moment is of."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {"state": {number: _Each(parameter) for number, parameter in enumerate(parameters)}}


class _Each(dict[str, Tensor]):
    """A moment of any name is divided as its parameter is."""

    def __init__(self, parameter: Tensor):
        super().__init__()
        self.parameter = parameter.detach()

    def get(self, key: Any, default: Any = None) -> Any:
        return self.parameter
