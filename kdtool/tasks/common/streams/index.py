"""What is to be known of shards before they are read: counted once, and kept for later runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kdtool.errors import InputError
from kdtool.system.disk import write_whole
from kdtool.system.home import home
from kdtool.system.locks import waiting_lock

READERS = 8
"""Threads that count shards."""

T = TypeVar("T")


def counted(
    keys: Sequence[str],
    count: Callable[[int], Any],
    of: Callable[[Any], T],
    say: Callable[[str], None],
    decides: Sequence[Any] = (),
) -> list[T]:
    """Return what is known of each shard.

    Args:
        keys: one a shard, see ``kdtool.tasks.common.streams.stream.Shards``.
        count: given a shard's number, returns it as JSON keeps it.
        of: makes of that what is returned; raises ValueError, TypeError or LookupError of anything else.
        say: told where shards have to be counted.
        decides: what it follows from besides.

    Raises:
        InputError: a shard cannot be read.
    """
    named = [list(keys), list(decides)] if decides else list(keys)
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
    file = home() / "streams" / f"{key}.json"
    with waiting_lock(file.with_suffix(".lock"), on_wait=lambda: None, check=lambda: None):
        found = _kept(file, len(keys), of)
        if found is None:
            say(f"counting the samples of {len(keys)} shards; it is done once")
            with ThreadPoolExecutor(READERS) as pool:
                plain = list(pool.map(count, range(len(keys))))
            found = [of(each) for each in plain]
            write_whole(file, json.dumps({"shards": plain}))
    return found


def refuse_empty(names: Sequence[str], lengths: Sequence[int]) -> None:
    """Refuse shards without samples.

    Raises:
        InputError: naming one.
    """
    empty = next((name for name, length in zip(names, lengths, strict=True) if length == 0), None)
    if empty is not None:
        raise InputError(f"the shard {empty} holds no samples: remove it.")


def _kept(file: Path, count: int, of: Callable[[Any], T]) -> list[T] | None:
    try:
        found = [of(each) for each in json.loads(file.read_text())["shards"]]
        return found if len(found) == count else None
    except (OSError, ValueError, TypeError, LookupError):
        return None
