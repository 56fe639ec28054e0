"""The runs in a folder: how far each is and what it came to, read from what they left, without importing torch."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdtool.system import closed, strict_json
from kdtool.recipe import yaml_file as recipe_file
from kdtool.system.disk import write_whole
from kdtool.engine.log import METRICS, read_log
from kdtool.errors import InputError, Interrupted
from kdtool.events import Metric
from kdtool.system.locks import is_held

RECIPE, RESULT, LOCK, ERROR = "recipe.yaml", "result.json", ".lock", "error.json"
COMPARISON = "comparison.json"

DEPTH = 3
"""How deep below the given folder runs are looked for: a comparison, if it is what was given, keeps its own there."""


def list_runs(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """Return the runs in a folder, newest first.

    Args:
        folder: of runs, or of one.

    Returns:
        For each "kind" ("run"), "folder", "state" ("running": a process holds it; "finished"; "failed": "error" says why; "stopped":
        "resume" goes on), "method", "teacher", "student", "data", "last_epoch" (what it was, None before it),
        "task", "metric" (see ``Metric``), "value" and "baseline" (what student and baseline reach by it on the test
        split; None until finished), "gain" (in points of a percentage), "top1" and "gain_points" (None where the metric
        is another), "seconds" and "changed" (a Unix time). A comparison is one entry, of the kind "comparison", with the
        same keys and "methods", "students" and "runs" ("done", "failed" and "of" how many) besides; "value" and "gain" are
        of the method that came out best. Its own runs are listed where its folder is the one given.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {str(root)!r}: name the one that holds runs (kdtool run's --out).")
    return sorted(_entries(root, DEPTH), key=lambda run: -run["changed"])


@contextlib.contextmanager
def failure_noted(folder: Path) -> Iterator[None]:
    """Leave in a run's folder why it failed; a run that is stopped, or goes well, leaves nothing."""
    with contextlib.suppress(OSError):
        (folder / ERROR).unlink(missing_ok=True)
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:
        if closed.is_why(error):
            raise
        about = {"error": str(error) or type(error).__name__, "kind": type(error).__name__, "time": round(time.time())}
        with contextlib.suppress(Exception):  # the disk may be what failed
            write_whole(folder / ERROR, strict_json.dumps(about) + "\n")
        raise


def _entries(folder: Path, depth: int, below: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what is at or below a folder: runs, but not the links of a chain inside one, and comparisons."""
    if (folder / RECIPE).is_file():
        yield _about(folder)
    elif below and (folder / COMPARISON).is_file():
        yield _comparison(folder)
    elif depth:
        for each in sorted(folder.iterdir()):
            if each.is_dir() and not each.is_symlink():
                yield from _entries(each, depth - 1, below=True)


def _about(run: Path) -> dict[str, Any]:
    result, failure = _json(run / RESULT), _json(run / ERROR)
    last: dict[str, Any] = (read_log(run / METRICS) or [{}])[-1]
    recipe = _recipe(run)
    state = "running" if is_held(run / LOCK) else "finished" if result else "failed" if failure else "stopped"
    test, seconds = result.get("test") or {}, result.get("seconds") or {}
    metric = Metric.of(result)
    return {
        "kind": "run",
        "folder": str(run),
        "state": state,
        "error": failure.get("error") if state == "failed" else None,
        "resume": f"kdtool run --resume {run}" if state in ("stopped", "failed") else None,
        "method": recipe.get("method"),
        "teacher": [_model(each) for each in _listed(recipe.get("teacher"))],
        "student": _model(recipe.get("student")),
        "data": (recipe.get("data") or {}).get("name"),
        "last_epoch": {key: last.get(key) for key in ("phase", "stage", "epoch", "epochs", "val")} if last else None,
        "task": recipe.get("task"),
        "metric": metric.to_dict(),
        "value": (test.get("student") or {}).get(metric.key),
        "top1": (test.get("student") or {}).get("top1"),
        "baseline": (test.get("baseline") or {}).get(metric.key),
        "gain": result.get("gain", result.get("gain_points")),
        "gain_points": result.get("gain_points"),
        "seconds": seconds.get("total"),
        "changed": max(file.stat().st_mtime for file in (run / RECIPE, run / METRICS, run / RESULT) if file.is_file()),
    }


def _comparison(folder: Path) -> dict[str, Any]:
    """Return what is known of a comparison, from its document."""
    found = _json(folder / COMPARISON)
    runs, rows, metric = found.get("runs") or [], found.get("rows") or [], Metric.of(found)
    counts = {state: sum(run.get("state") == state for run in runs) for state in ("done", "failed")}
    over = bool(runs) and sum(counts.values()) == len(runs)
    state = "failed" if counts["failed"] and over else "finished" if over else "stopped"
    state = "running" if is_held(folder / LOCK) else state
    reached = [row for row in rows if row["best"]["mean"] is not None]
    best = max(reached, key=lambda row: metric.gain(row["best"]["mean"], 0.0), default=None)
    gain = ((best or {}).get("best") or {}).get("difference")
    return {
        "kind": "comparison",
        "folder": str(folder),
        "state": state,
        "error": f"{counts['failed']} of {len(runs)} runs failed" if state == "failed" else None,
        "resume": f"kdtool compare --resume {folder}" if state in ("stopped", "failed") else None,
        "method": best["method"] if best else None,
        "methods": found.get("methods") or [],
        "students": found.get("students") or [],
        "runs": {**counts, "of": len(runs)},
        "teacher": [],
        "student": best["student"] if best else None,
        "data": (found.get("data") or {}).get("name"),
        "last_epoch": None,
        "task": found.get("task"),
        "metric": metric.to_dict(),
        "value": best["best"]["mean"] if best else None,
        "top1": best["best"]["mean"] if best and metric.key == "top1" else None,
        "baseline": None,
        "gain": metric.gain(gain["mean"], 0.0) if gain and gain["mean"] is not None else None,
        "gain_points": None,
        "seconds": None,
        "changed": (folder / COMPARISON).stat().st_mtime,
    }


def _recipe(run: Path) -> dict[str, Any]:
    """Return a run's recipe as it is written; what cannot be read is left out of the list, not refused."""
    try:
        return recipe_file.read(run / RECIPE)
    except InputError:
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _model(section: Any) -> str | None:
    return section.get("model") if isinstance(section, dict) else section
