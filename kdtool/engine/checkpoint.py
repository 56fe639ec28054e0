"""Checkpoints: tensors in safetensors, the rest in JSON; nothing is unpickled.

Written aside, flushed, read back and renamed. A manifest holds the digest of every file and of itself, so that what is
torn, edited or swapped is told from what is sound.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from kdtool import __version__
from kdtool.errors import InputError, RunError
from kdtool.system.disk import writing

FORMAT = 2
"""Raised when a checkpoint's files change their meaning."""

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"

_TENSOR = "__tensor__"
_PAIRS = "__pairs__"


def save_checkpoint(folder: Path, name: str, state: dict[str, Any], keep: int, best: bool = False) -> Path:
    """Write ``state`` (nested dicts, lists, scalars and tensors) as ``folder/name`` and drop old ones.

    The newest ``keep`` stay, and the newest that was said to be the best.

    Args:
        folder: the run's checkpoints folder.
        name: sorts by age ("step-00000120").
        state: what is saved.
        keep: how many checkpoints stay.
        best: the epoch that just ended is the best so far.

    Raises:
        RunError: it cannot be written; those written before are as they were.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, tensors)
    files = {TENSORS: save(tensors), STATE: json.dumps(tree).encode()}
    with writing(folder / name, sum(map(len, files.values()))):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*.tmp"):  # of runs that were killed, or found no room
            shutil.rmtree(left)
        aside = folder / f".{name}.tmp"
        try:
            _write(aside, files, _manifest(name, files, best))
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _remove(folder / name)
        aside.rename(folder / name)
        _flush(folder)
    _drop_old(folder, keep)
    return folder / name


def _manifest(name: str, files: Mapping[str, bytes], best: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": name,
        "best": best,
        "versions": {"kdtool": __version__, "torch": torch.__version__},
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    }


def _write(aside: Path, files: Mapping[str, bytes], manifest: dict[str, Any]) -> None:
    aside.mkdir()
    sealed = json.dumps({**manifest, "digest": _seal(manifest)}).encode()
    for name, content in {**files, MANIFEST: sealed}.items():
        with (aside / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    _flush(aside)
    wrong = [name for name, digest in manifest["files"].items() if _digest(aside / name) != digest]
    if wrong:
        raise OSError(None, f"{wrong[0]} does not read back as it was written")


def _drop_old(folder: Path, keep: int) -> None:
    newest = checkpoints(folder)
    best = next((path for path in newest if _is_best(path)), None)
    for old in newest[keep:]:
        if old != best:
            _remove(old)


def _remove(path: Path) -> None:
    """Remove a checkpoint at once: half of one under its own name would pass for a torn one."""
    if path.exists():
        aside = path.with_name(f".{path.name}.old.tmp")
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _is_best(path: Path) -> bool:
    with suppress(RunError, InputError):
        return bool(_read_manifest(path)["best"])
    return False


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in a folder, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest sound checkpoint's state, or None where there is none, and what was passed over and why.

    Raises:
        InputError: the newest that can be read has another format.
    """
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
        RunError: a file is missing, torn, edited or of another checkpoint.
        InputError: it has another format.
    """
    manifest = _read_manifest(path)
    try:
        wrong = [name for name in (TENSORS, STATE) if _digest(path / name) != manifest["files"][name]]
        if wrong:
            raise RunError(f"checkpoint {path} is torn or was edited ({', '.join(wrong)}).")
        state: dict[str, Any] = _restore(json.loads((path / STATE).read_bytes()), load_file(path / TENSORS))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise RunError(f"checkpoint {path} cannot be read: {type(error).__name__}: {error}") from error
    return state


def _read_manifest(path: Path) -> dict[str, Any]:
    if (path / "digests.json").is_file():
        raise InputError(_other_format(path, 1))
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
        sealed = manifest.pop("digest") == _seal(manifest)
        found, name = manifest["format"], manifest["name"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"checkpoint {path} is torn or was edited ({MANIFEST}: {error}).") from error
    if not sealed or name != path.name:
        raise RunError(f"checkpoint {path} is torn or was edited ({MANIFEST}).")
    if found != FORMAT:
        raise InputError(_other_format(path, found))
    return manifest


def _other_format(path: Path, found: Any) -> str:
    return (
        f"checkpoint {path} has format {found}, this kdtool ({__version__}) reads format {FORMAT}: resume with the "
        "version that wrote it (environment.json in the run's folder), or start a new run."
    )


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


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
