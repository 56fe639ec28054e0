"""Writing to a disk that may be full, read-only or gone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kdtool.errors import RunError

_ASIDE = ".tmp"
"""Ends the hidden name of what is not whole yet."""


@contextlib.contextmanager
def writing(path: Path, needed: int) -> Iterator[None]:
    """Say in one sentence why ``path`` could not be written.

    Args:
        path: what is written; a folder or a file.
        needed: its bytes, about.

    Raises:
        RunError: the disk has less room than that, or the system refused.
    """
    free = free_bytes(path)
    if free is not None and free < needed:
        raise _refusal(path, needed, "no room")
    try:
        yield
    except Exception as error:
        # safetensors' own error carries the system's words.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        why = error.strerror if isinstance(error, OSError) else None
        raise _refusal(path, needed, why or str(error)) from error


def free_bytes(path: Path) -> int | None:
    """Return the free bytes of the disk that a path is or would be on; None where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
    return None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, and a run that is killed, leaves the old or the new one, never a part.

    Raises:
        RunError: it cannot be written; the old one is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    part = aside(path)
    with writing(path, len(data)):
        try:
            with part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise


def aside(path: Path) -> Path:
    """Return where a file is written until it is whole."""
    return path.with_name(f".{path.name}{_ASIDE}")


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left aside, in a folder and all below it; for whoever holds the folder."""
    for left in list(folder.rglob(f".*{_ASIDE}")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def bytes_in(place: Path) -> int:
    """Return what a file takes, or what the files in a folder and below do."""
    return sum(path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file())


def append_line(path: Path, line: str) -> None:
    """Append a line to a file.

    Raises:
        RunError: it cannot be written.
    """
    data = (line + "\n").encode()
    with writing(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(data)


def _refusal(path: Path, needed: int, why: str) -> RunError:
    free = free_bytes(path)
    room = "" if free is None else f", {free:,} bytes are free"
    return RunError(
        f"cannot write {path}: {why}. About {needed:,} bytes are needed{room}. What was saved before is as it was: "
        "make room, or the disk writable, and start again (a run goes on by --resume)."
    )
