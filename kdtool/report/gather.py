"""What a page is on: runs and comparisons, read from what they left and measured again by their task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.engine.log import METRICS, read_log
from kdtool.errors import InputError
from kdtool.generation.card import CARD
from kdtool.generation.taught import read_set
from kdtool.recipe.load import UnnamedCode
from kdtool.report import of_comparison, of_run, of_set
from kdtool.report.made import made
from kdtool.report.sections import Chapter, RunSections
from kdtool.runs.folder import RECIPE, RESULT
from kdtool.runs.listing import list_runs
from kdtool.runs.student import last_recipe, student_of
from kdtool.runs.tasks import signed, task_of

COMPARISON = "comparison.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Gathered:
    """A run, a comparison or a generated set.

    Attributes:
        document: what ``kdtool report --json`` says of it: "kind" ("run", "comparison" or "set"), "folder", and more
            by kind.
        chapter: the same, as the page shows it.
    """

    document: dict[str, Any]
    chapter: Chapter


def gather(folder: str | Path, say: Say) -> Gathered:
    """Return what a page says of a run, of a comparison, or of a set that ``kdtool.generate`` made.

    Args:
        folder: of one of them.
        say: takes sentences for the user.

    Raises:
        InputError: it is none of them, has no student yet, or is a run of a task that has no page.
    """
    path = Path(folder)
    if (path / COMPARISON).is_file():
        return comparison(path, say)
    if (path / RECIPE).is_file():
        return run(path, say)
    if (path / CARD).is_file():
        return generated(path)
    raise InputError(
        f"{folder} is no run (no {RECIPE}), no comparison (no {COMPARISON}) and no generated set (no {CARD}); `kdtool "
        "runs FOLDER` lists a folder's runs."
    )


def run(folder: Path, say: Say) -> Gathered:
    """Return a run. Its document has "about" (as ``kdtool runs``), "result", "log" and "baseline_log" (records of
    metrics.jsonl), "recipe", "environment", "exports" and "robustness" (see ``made``), "notes", and what its task adds:
    for a classification "evaluation" and "baseline" (as ``kdtool eval``, the latter None without one) and "samples".

    Raises:
        InputError: it has no student yet, or its task has no page.
    """
    sections = run_sections(folder, say)
    document = {
        "kind": "run",
        "folder": str(folder),
        "about": list_runs(folder)[0],
        **sections.document,
        **_measured(folder, sections),
        "log": read_log(folder / METRICS),
        "baseline_log": read_log(folder / "baseline" / METRICS),
        "result": _result(folder),
        **made(folder),
        "notes": list(sections.notes),
    }
    return Gathered(document, of_run.chapter(document, sections))


def run_sections(folder: Path, say: Say) -> RunSections:
    """Return what a run's own task shows of it; a note alone where its networks are a user's own code."""
    student_of(folder, str(folder))
    try:
        recipe = last_recipe(folder)
    except UnnamedCode as error:
        named = str(error).split(" ")[0]
        return RunSections(
            notes=[
                f"The figures are those that the run measured at its end. Its networks are not opened again here, for "
                f"its recipe names a file with code ({named}), which is not run because a folder asks for it."
            ]
        )
    found: RunSections = task_of(folder).sections(folder, recipe, say)
    return found


def _measured(folder: Path, sections: RunSections) -> dict[str, Any]:
    """Return the evaluations in what a task shows, each as ``kdtool eval`` gives it."""
    both = {name: sections.document.get(name) for name in ("evaluation", "baseline")}
    return {name: signed(task_of(folder), found) for name, found in both.items() if found}


def _result(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the run {folder} is not finished: kdtool run --resume {folder} finishes it.") from error
    return found


def comparison(folder: Path, say: Say) -> Gathered:
    """Return a comparison. Its document has "comparison" (the content of comparison.json), "profile" (``kdtool
    profile`` of one run a student, {} where no run is done) and "notes" on students that cannot be timed.

    Raises:
        InputError: it cannot be read.
    """
    from kdtool.measure.profile import profile

    try:
        whole = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        done = {run["student"]: run["folder"] for run in whole["runs"] if run["state"] == "done"}
        whole["rows"], whole["says"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / COMPARISON} cannot be read ({error}): kdtool compare --resume {folder}") from error
    say(f"{folder}: timing the students on this machine")
    profiles, notes = {}, []
    for student, run in done.items():
        place = Path(run) / "student"
        if place.is_dir():
            try:
                (profiles[student],) = profile(place, batch_sizes=(1,))["rows"]
            except InputError as error:  # its weights are of a user's own code, as a rule
                notes.append(f"{student} is not timed: {error}")
    document = {"kind": "comparison", "folder": str(folder), "comparison": whole, "profile": profiles, "notes": notes}
    return Gathered(document, of_comparison.chapter(document))


def generated(folder: Path) -> Gathered:
    """Return a generated set. Its document has "card" (the content of card.json), "samples" (some, spread over the set)
    and "words" (how many the answers have, by kind).

    Raises:
        InputError: it cannot be read.
    """
    card, samples = read_set(folder)
    words: dict[str, list[int]] = {}
    for sample in samples:
        words.setdefault(str(sample["kind"]), []).append(len(sample["messages"][-1]["content"].split()))
    step = max(1, -(-len(samples) // of_set.SHOWN))
    document = {"kind": "set", "folder": str(folder), "card": card, "samples": samples[::step], "words": words}
    return Gathered(document, of_set.chapter(document))
