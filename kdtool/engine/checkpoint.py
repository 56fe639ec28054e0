"""Checkpoints: tensors in safetensors, the rest in JSON; nothing is unpickled.

Written aside, flushed, read back and renamed. A manifest holds the digest of every file and of itself, so that what is
torn, edited or swapped is told from what is sound.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from kdtool import __version__
from kdtool.engine.shard_files import Stored
from kdtool.errors import InputError, RunError
from kdtool.system.disk import writing

FORMAT, IN_PARTS = 2, 3
"""Raised when a checkpoint's files change their meaning; the latter's tensors are not all in one file."""

TENSORS, STATE, MANIFEST, PARTS = "tensors.safetensors", "state.json", "manifest.json", "parts"

_TENSOR, _STORED, _DTYPE = "__tensor__", "__stored__", "__dtype__"
_PAIRS = "__pairs__"


def save_checkpoint(
    folder: Path, name: str, state: dict[str, Any], keep: int, best: bool = False, parts: Path | None = None
) -> Path:
    """Write ``state`` (nested dicts, lists, scalars, types and tensors) as ``folder/name`` and drop old ones.

    The newest ``keep`` stay, and the newest that was said to be the best.

    Args:
        folder: the run's checkpoints folder.
        name: sorts by age ("step-00000120").
        state: what is saved.
        keep: how many checkpoints stay.
        best: the epoch that just ended is the best so far.
        parts: a folder on the same disk with the files of the state's ``Stored`` tensors, which is moved.

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
            _write(aside, files, parts, lambda written: _manifest(name, written, best, parts is not None))
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _remove(folder / name)
        aside.rename(folder / name)
        _flush(folder)
    _drop_old(folder, keep)
    return folder / name


def _manifest(name: str, digests: Mapping[str, str], best: bool, in_parts: bool) -> dict[str, Any]:
    return {
        "format": IN_PARTS if in_parts else FORMAT,
        "name": name,
        "best": best,
        "versions": {"kdtool": __version__, "torch": torch.__version__},
        "files": dict(digests),
    }


def _write(
    aside: Path, files: Mapping[str, bytes], parts: Path | None, manifest_of: Callable[[dict[str, str]], dict[str, Any]]
) -> None:
    aside.mkdir()
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    if parts is not None:
        parts.rename(aside / PARTS)
        digests |= {f"{PARTS}/{path.name}": _digest(path) for path in sorted((aside / PARTS).iterdir())}
    manifest = manifest_of(digests)
    sealed = json.dumps({**manifest, "digest": _seal(manifest)}).encode()
    for name, content in {**files, MANIFEST: sealed}.items():
        with (aside / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    _flush(aside)
    wrong = [name for name in files if _digest(aside / name) != digests[name]]
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
        parts = [f"{PARTS}/{file.name}" for file in path.glob(f"{PARTS}/*")]
        written = [name for name in manifest["files"] if name.startswith(f"{PARTS}/")]
        digests = {name: _digest(path / name) for name in (TENSORS, STATE, *parts)}
        wrong = [name for name in (*digests, *written) if digests.get(name) != manifest["files"].get(name)]
        if wrong:
            raise RunError(f"checkpoint {path} is torn or was edited ({', '.join(wrong)}).")
        state: dict[str, Any] = _restore(json.loads((path / STATE).read_bytes()), load_file(path / TENSORS), path)
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
    if found not in (FORMAT, IN_PARTS):
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
    if isinstance(value, Stored):
        return {_STORED: value.name}
    if isinstance(value, torch.dtype):  # some optimizers keep that of their moments
        return {_DTYPE: str(value).removeprefix("torch.")}
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


def _restore(value: Any, tensors: dict[str, Tensor], path: Path) -> Any:
    if isinstance(value, dict):
        if _STORED in value:
            return Stored(path / PARTS, value[_STORED])
        if _DTYPE in value:
            return getattr(torch, value[_DTYPE])
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _restore(item, tensors, path) for key, item in value[_PAIRS]}
    if isinstance(value, list):
        return [_restore(item, tensors, path) for item in value]
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
