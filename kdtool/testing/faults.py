"""How checks report what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class RefusedError(Exception):
    """The method takes none of the pairs that a check is about, with its own reason: nothing is to be checked."""


class CheckError(AssertionError):
    """A method breaks a promise; the message says which and how to keep it."""


def require(condition: bool, message: str) -> None:
    """Raise ``CheckError`` where ``condition`` does not hold."""
    if not condition:
        raise CheckError(message)


@contextmanager
def at(where: str) -> Iterator[None]:
    """Put the place before the message of what goes wrong inside."""
    try:
        yield
    except RefusedError:
        raise
    except CheckError as error:
        raise CheckError(f"{where}: {error}") from error
    except Exception as error:
        raise CheckError(f"{where}: {type(error).__name__}: {error}") from error


def some(names: Iterable[str]) -> str:
    """Return the first few names, and how many there are beyond."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
