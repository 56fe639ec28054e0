"""How a run was made and what was made of it: recipe, seed, machine, exports and robustness, read from its folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdtool.events import Metric
from kdtool.recipe import yaml_file
from kdtool.registry import tasks
from kdtool.report.sections import Table
from kdtool.runs.environment import FILE as ENVIRONMENT
from kdtool.runs.folder import RECIPE
from kdtool.runs.student import ROBUSTNESS
from kdtool.terminal import numbers, words

EXPORTS = "export/export.json"
"""Where ``kdtool export`` leaves what it found of a run."""

_TOLD = ("train.epochs", "train.batch_size", "optim.name", "optim.lr", "schedule.name", "train.precision")
"""Keys of the recipe that are shown; the file has all."""


def made(run: Path) -> dict[str, Any]:
    """Return a run's "recipe", "environment", "exports" and "robustness"; empty where it has none."""
    recipe = yaml_file.read(run / RECIPE)
    found = {"environment": run / ENVIRONMENT, "exports": run / EXPORTS, "robustness": run / ROBUSTNESS}
    return {"recipe": recipe, **{name: _json(path) for name, path in found.items()}}


def card(folder: str, found: Mapping[str, Any], result: Mapping[str, Any]) -> Table:
    """Return them as a table of two columns.

    Args:
        folder: the run's.
        found: by ``made``.
        result: what ``result.json`` holds.
    """
    return Table("How it was made", ["", ""], [list(line) for line in _lines(folder, found, result)], numbers=2)


def _lines(folder: str, found: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    recipe, machine = found["recipe"], found["environment"]
    told = (f"{key}={value}" for key in _TOLD if (value := _at(recipe, key)) is not None)
    yield "recipe", f"method={recipe.get('method')} {' '.join(told)}; all of it: {shlex.quote(f'{folder}/{RECIPE}')}"
    if "seed" in result:
        yield "seed", str(result["seed"])
    if machine:
        threads = f"{machine.get('threads')} threads, {machine.get('processes')} processes"
        where = f"{machine.get('processor')}, {result.get('device', 'cpu')}, {threads}"
        versions = ", ".join(
            f"{name} {machine[name]}" for name in ("kdtool", "torch", "timm", "python") if name in machine
        )
        yield "machine", f"{where}; {versions}"
    if total := (result.get("seconds") or {}).get("total"):
        yield "time", words.duration(total)
    yield "exports", "; ".join(_exports(found["exports"])) or f"none yet: kdtool export {shlex.quote(folder)}"
    metric = Metric.of(result)
    worse = "; ".join(
        f"{each['corruption']}:{each['severity']} {numbers.value(metric, each.get(metric.key))} "
        f"({numbers.gain(metric, -each['drop_points'])})"
        for each in found["robustness"] or ()
    )
    corrupted = tasks.get(recipe.get("task") or tasks.default()).corrupted
    if worse or corrupted:
        yield "robustness", worse or f"not measured: kdtool eval {shlex.quote(folder)} --corrupt {corrupted}"


def _exports(found: Mapping[str, Any]) -> Iterator[str]:
    for form, each in (found.get("exports") or {}).items():
        if each.get("accepted"):
            times = (found.get("speed") or {}).get(form) or []
            speed = f", {times[0]['median_ms']:.2f} ms" if times else ""
            right = f", {found['metric']} {words.percent(each['top1'])}" if each["top1"] is not None else ""
            yield f"{form} {words.size(each['bytes'])}{right}{speed}"


def _at(recipe: Any, key: str) -> Any:
    for part in key.split("."):
        recipe = recipe.get(part) if isinstance(recipe, Mapping) else None
    return recipe


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
