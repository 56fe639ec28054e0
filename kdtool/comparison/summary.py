"""A comparison's document: every run, what the seeds say together, and what that does and does not show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool import __version__
from kdtool.comparison.plan import Cell, Plan
from kdtool.comparison.says import sentences
from kdtool.comparison.statistics import holm, paired, spread
from kdtool.comparison.work import COST, training_seconds
from kdtool.events import Metric, several
from kdtool.runs.folder import RESULT, tidy
from kdtool.runs.paired import Rows, difference

FILE = "comparison.json"


@dataclass
class Entry:
    """A run as the comparison knows it; ``state`` is "waiting", "running", "done" or "failed"."""

    cell: Cell
    folder: Path
    state: str = "waiting"
    error: str | None = None

    def look(self) -> None:
        """Take a finished run for done."""
        if (self.folder / RESULT).is_file():
            tidy(self.folder)
            self.state, self.error = "done", None

    def facts(self) -> dict[str, Any]:
        """Return what the document says of it; the metric's values are under its own key, on the test split where not
        "val"."""
        cell = self.cell
        found = {"student": cell.student, "method": cell.method, "seed": cell.seed, "folder": str(self.folder),
                 "state": self.state, "error": self.error}  # fmt: skip
        if self.state != "done":
            return found
        result = json.loads((self.folder / RESULT).read_text())
        best, last, key = result["epochs"]["best"], result["epochs"]["last"], Metric.of(result).key
        test = result["test"]
        return {
            **found,
            key: test["student"][key],
            f"last_{key}": (test.get("student_last") or test["student"])[key],
            "best_epoch": best["epoch"],
            "last_epoch": last["epoch"],
            "val": {"best": _seen(best, key), "last": _seen(last, key)},
            "chance": result.get("chance"),
            "steps": result["steps"],
            "params": result["student"]["params"],
            "macs": result["student"]["macs"],
            f"teacher_{key}": _of_teacher(result, key),
            "cost": {"seconds": training_seconds(self.folder), "memory": _memory(self.folder)},
        }


def document(
    plan: Plan, entries: Sequence[Entry], about: Mapping[str, Any], tuned: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return what ``comparison.json`` holds; all but the keys called "cost" is the same however often it was stopped.

    Args:
        plan: what was asked for.
        entries: its runs.
        about: what was found before they began: data and budget.
        tuned: the options that a search found.
    """
    runs = [entry.facts() for entry in entries]
    key = Metric.of(about).key
    rows = [_row(student, method, plan, runs, key) for student in plan.students for method in plan.methods]
    _adjust(rows)
    found = {
        "kdtool": __version__,
        "methods": plan.methods,
        "students": plan.students,
        "seeds": plan.seeds,
        "reference": plan.reference,
        "threads": plan.threads,
        **about,
        "finished": all(run["state"] in ("done", "failed") for run in runs),
        "failed": sum(run["state"] == "failed" for run in runs),
        "tuned": list(tuned),
        "rows": rows,
        "runs": runs,
    }
    return {**found, "says": sentences(found)}


def _row(student: str, method: str, plan: Plan, runs: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return a method's figures with one student, over the seeds that are done."""
    own = _done(runs, student, method)
    reference = _done(runs, student, plan.reference)
    row: dict[str, Any] = {
        "student": student,
        "method": method,
        "seeds": len(own),
        "failed": [run["seed"] for run in runs
                   if (run["student"], run["method"], run["state"]) == (student, method, "failed")],
        "steps": sorted({run["steps"] for run in own.values()}),
    }  # fmt: skip
    for name, key in (("best", metric), ("last", f"last_{metric}")):
        values = {seed: run[key] for seed, run in own.items()}
        others = {seed: run[key] for seed, run in reference.items()}
        apart = paired(values, others) if method != plan.reference else None
        row[name] = {**spread(list(values.values())), "difference": apart}
    if len(plan.seeds) == 1 and row["best"]["difference"]:
        row["best"]["difference"]["samples"] = _over_samples(*own.values(), *reference.values())
    costs = [run["cost"] for run in own.values()]
    row["cost"] = {
        "seconds": spread([cost["seconds"] for cost in costs if cost["seconds"] is not None])["mean"],
        **{f"{where}_bytes": max((cost["memory"][where] for cost in costs if cost["memory"].get(where)), default=None)
           for where in ("host", "device")},
    }  # fmt: skip
    return row


def _over_samples(*runs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the difference of two runs of one seed over the test samples; None where it is not known."""
    found = [Rows.read(Path(run["folder"])) for run in runs]
    if len(found) < 2 or found[0] is None or found[1] is None:
        return None
    return difference(found[0], found[1])


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add to the differences the p-values that hold for all of them together."""
    for name in ("best", "last"):
        found = [row[name]["difference"] for row in rows if row[name]["difference"]]
        tested = [each for each in found if each["p"] is not None]
        for each in found:
            each["p_holm"] = None
        for each, p in zip(tested, holm([each["p"] for each in tested]), strict=True):
            each["p_holm"] = p


def _done(runs: Sequence[Mapping[str, Any]], student: str, method: str) -> dict[int, Mapping[str, Any]]:
    wanted = (student, method, "done")
    return {run["seed"]: run for run in runs if (run["student"], run["method"], run["state"]) == wanted}


def _seen(epoch: Mapping[str, Any], key: str) -> float | None:
    return epoch["val"][key] if epoch["val"] else None


def _of_teacher(result: Mapping[str, Any], key: str) -> float | None:
    """Return what a run's first teacher reached; None without any, and where that is not to be compared."""
    tests, teachers = several(result["test"]["teacher"]), several(result.get("teacher"))
    return tests[0][key] if tests and not (teachers and teachers[0].get("apart")) else None


def _memory(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / COST).read_text())["memory"]
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return {"host": None, "device": None}
