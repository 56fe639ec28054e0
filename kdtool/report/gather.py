"""Everything a report shows, as plain data. Numbers come from ``kdtool eval``'s functions and the run's log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdtool.engine.log import METRICS, read_log
from kdtool.errors import InputError
from kdtool.measure.evaluate import evaluate
from kdtool.runs.folder import RECIPE
from kdtool.runs.listing import list_runs
from kdtool.tasks.images.evaluation.target import find, result_of
from kdtool.tasks.images.page.samples import look

COMPARISON = "comparison.json"
Say = Callable[[str], None]


def gather(folder: str | Path, say: Say) -> dict[str, Any]:
    """Return what a page says of a run, or of a comparison.

    Args:
        folder: of either.
        say: takes sentences for the user.

    Returns:
        {"kind": "run" or "comparison", "folder", ...}: see ``of_run`` and ``of_comparison``.

    Raises:
        InputError: it is neither, or has no student yet.
    """
    path = Path(folder)
    if (path / COMPARISON).is_file():
        return of_comparison(path, say)
    if (path / RECIPE).is_file():
        return of_run(path, say)
    raise InputError(
        f"{folder} is no run (no {RECIPE}) and no comparison (no {COMPARISON}); `kdtool runs FOLDER` lists a folder's."
    )


def of_run(run: Path, say: Say) -> dict[str, Any]:
    """Return "about" (as ``kdtool runs`` has it), "evaluation" and "baseline" (as ``kdtool eval``, the latter None
    without one), "log" and "baseline_log" (records of metrics.jsonl), "samples" (see ``look``), "result" and "notes".

    Raises:
        InputError: it has no student yet.
    """
    recipe = find(str(run)).recipe
    assert recipe is not None
    say(f"{run}: measuring on the test split")
    evaluation = evaluate(run)
    alone = run / "baseline" / "student"
    baseline = evaluate(alone) if alone.is_dir() else None
    say(f"{run}: looking at test images one by one")
    samples = look(recipe, str(run))
    return {
        "kind": "run",
        "folder": str(run),
        "about": list_runs(run)[0],
        "evaluation": evaluation,
        "baseline": baseline,
        "log": read_log(run / METRICS),
        "baseline_log": read_log(run / "baseline" / METRICS),
        "samples": samples,
        "result": result_of(run),
        "notes": list(dict.fromkeys([*evaluation["notes"], *samples["notes"]])),
    }


def of_comparison(folder: Path, say: Say) -> dict[str, Any]:
    """Return "comparison" (the content of comparison.json) and "profile": ``kdtool profile`` of one run a student,
    {} where no run is done."""
    from kdtool.measure.profile import profile

    try:
        comparison = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        done = {run["student"]: run["folder"] for run in comparison["runs"] if run["state"] == "done"}
        comparison["rows"], comparison["says"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / COMPARISON} cannot be read ({error}): kdtool compare --resume {folder}") from error
    say(f"{folder}: timing the students on this machine")
    profiles = {}
    for student, run in done.items():
        place = Path(run) / "student"
        if place.is_dir():
            (profiles[student],) = profile(place, batch_sizes=(1,))["rows"]
    return {"kind": "comparison", "folder": str(folder), "comparison": comparison, "profile": profiles}
