"""Trained teachers in kdtool's home: what lies there, and how they go."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.runs.student import WEIGHTS
from kdtool.system.disk import bytes_in
from kdtool.system.home import home
from kdtool.system.locks import sole_lock

NOTE = "teacher.json"
"""Written last into a kept teacher's folder: how it came out, and its weights' digest."""

PARTIAL = ".partial"
"""Ends the name of a folder in which a teacher is being trained, or whose training was stopped."""


def kept_folder() -> Path:
    """Return the folder that holds trained teachers, each in one of its own."""
    return home() / "teachers"


def lock_of(folder: Path) -> Path:
    """Return the lock of whoever trains the teacher that is to lie in ``folder``."""
    return folder.with_name(folder.name.removesuffix(PARTIAL) + ".lock")


def is_kept(folder: Path, warn: Callable[[str], None]) -> bool:
    """Tell whether a trained teacher lies in ``folder`` as it was written; a damaged one is said to be."""
    try:
        about = json.loads((folder / NOTE).read_bytes())
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if about.get("sha256", digest) == digest:  # those of older versions have none
            return True
        why = f"{WEIGHTS} is not what was written"
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError) as error:
        why = str(error)
    warn(f"the teacher kept in {folder} is damaged ({why}), and is trained again")
    return False


def mark_used(folder: Path) -> None:
    """Note that a kept teacher teaches again, for ``prune_teachers``."""
    with contextlib.suppress(OSError):  # somebody else's home may be read-only
        (folder / NOTE).touch()


def list_teachers() -> list[dict[str, Any]]:
    """Return for each teacher in the home its "name", "folder", "teacher" and "data" (None where they are not known),
    "bytes" on disk, "complete" (False: its training was stopped, and goes on in the next run) and "unused_days"."""
    return [_entry(folder) for folder in _folders()]


def prune_teachers(names: Sequence[str], days: float, dry_run: bool) -> list[dict[str, Any]]:
    """Remove the teachers named; without names those unused for ``days``. One that is being trained stays.

    A teacher whose training was stopped goes no sooner: the next run that needs it goes on from there.

    Returns:
        For each that went "name", "bytes" and "why".
    """
    gone = []
    for folder in _folders():
        age = _age(folder)
        why = "named" if folder.name in names else f"unused for {age:.0f} days" if not names and age >= days else None
        if why is None:
            continue
        try:
            with sole_lock(lock_of(folder), str(folder)):
                gone.append({"name": folder.name, "bytes": bytes_in(folder), "why": why})
                if not dry_run:
                    shutil.rmtree(folder)
        except InputError:
            continue
    return gone


def _folders() -> list[Path]:
    try:
        return sorted(path for path in kept_folder().iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _entry(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError):
        about = {}
    return {
        "name": folder.name,
        "folder": str(folder),
        "teacher": about.get("teacher"),
        "data": about.get("data"),
        "bytes": bytes_in(folder),
        "complete": bool(about),
        "unused_days": _age(folder),
    }



def _age(folder: Path) -> float:
    """Return the days since a teacher was trained, or last taught."""
    note = folder / NOTE
    return round(max(0.0, time.time() - (note if note.exists() else folder).stat().st_mtime) / 86400, 3)
