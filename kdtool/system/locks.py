"""Lock files: who holds one is asked of the operating system, so that a crash leaves nothing to clean up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kdtool.errors import InputError

_GLANCE_S = 0.5
"""How long to wait for a lock that others only look at for a moment."""


def _lock(path: Path) -> FileLock:
    # An operating-system lock: it dies with its process, so a crash leaves nothing to clean up.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}. Set KDTOOL_HOME or --out.") from error
    return FileLock(path)


@contextmanager
def waiting_lock(path: Path, on_wait: Callable[[], None], check: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file ``path``.

    Args:
        path: made where it does not exist.
        on_wait: called once if another process holds it.
        check: called several times a second while waiting; what it raises ends the wait.
    """
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        while not lock.is_locked:
            check()
            with suppress(Timeout):
                lock.acquire(timeout=0.3)
    try:
        yield
    finally:
        _give_up(lock, path)


@contextmanager
def sole_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``, or refuse.

    Raises:
        InputError: another process holds it.
    """
    lock = _lock(path)
    try:
        lock.acquire(timeout=_GLANCE_S)
    except Timeout as error:
        raise InputError(f"{what} is being written by another process: wait for it, or use another --out.") from error
    try:
        yield
    finally:
        _give_up(lock, path)


def is_held(path: Path) -> bool:
    """Tell whether a process holds the lock file ``path``; one that a killed process left is removed."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # not ours to lock
        return False
    _give_up(lock, path)
    return False


def _give_up(lock: FileLock, path: Path) -> None:
    """Remove a lock file and release it, in this order: who opened it meanwhile finds it gone and tries again."""
    with suppress(OSError):
        path.unlink()
    lock.release()
