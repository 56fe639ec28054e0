"""Checkpoints: tensors in safetensors, the rest in JSON, written aside, flushed, renamed; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from kdtool.errors import RunError

FORMAT = 1
_TENSOR = "__tensor__"
_PAIRS = "__pairs__"


def save_checkpoint(folder: Path, name: str, state: dict[str, Any], keep: int) -> Path:
    """Write ``state`` (nested dicts, lists, scalars and tensors) as ``folder/name`` and drop all but the newest.

    Args:
        folder: the run's checkpoints folder.
        name: sorts by age ("step-00000120").
        keep: how many checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, tensors)
    aside = folder / f".{name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_file(tensors, aside / "tensors.safetensors")
    (aside / "state.json").write_text(json.dumps({"format": FORMAT, "state": tree}))
    digests = {file.name: _digest(file) for file in sorted(aside.iterdir())}
    (aside / "digests.json").write_text(json.dumps(digests))
    for file in aside.iterdir():
        _flush(file)
    _flush(aside)
    final = folder / name
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    _flush(folder)
    for old in checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in a folder, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest sound checkpoint's state, or None where there is none, and what was passed over and why."""
    passed_over: list[str] = []
    for path in checkpoints(folder):
        try:
            return load_checkpoint(path), passed_over
        except RunError as error:
            passed_over.append(str(error))
    return None, passed_over


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state.

    Raises:
        RunError: a file is missing, torn or edited, or the format is another.
    """
    try:
        digests = json.loads((path / "digests.json").read_text())
        wrong = [name for name, digest in digests.items() if _digest(path / name) != digest]
        if wrong or set(digests) != {"tensors.safetensors", "state.json"}:
            raise RunError(f"checkpoint {path} is torn or was edited ({', '.join(wrong) or 'files are missing'}).")
        content = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"checkpoint {path} cannot be read: {error}") from error
    if content["format"] != FORMAT:
        raise RunError(f"checkpoint {path} has format {content['format']}; this kdtool reads format {FORMAT}.")
    state: dict[str, Any] = _restore(content["state"], tensors)
    return state


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"t{len(tensors):06d}"
        # A clone also unties weights that share memory, which safetensors refuses.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        # JSON's keys are strings; an optimizer's are integers.
        return {_PAIRS: [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, tensors) for item in value]
    return value


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _restore(item, tensors) for key, item in value[_PAIRS]}
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    return value


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
