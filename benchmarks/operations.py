"""How many operations the host starts for a step from resnet32x4 to resnet8x4, with and without a graph.

    python -m benchmarks.operations [METHOD ...]    # those named
    python -m benchmarks.operations --missing       # every method that has no figures yet
    python -m benchmarks.operations --page          # none: write the page anew

No card is needed: a simulated device counts what is dispatched to it (``tests/simulated.py``). A view of a tensor's
memory starts nothing and is not counted; an operation is a kernel or a few of them. Each method's row is printed and
kept in ``operations.json``, beside this file, as soon as it is there, and the table of BENCHMARKS.md is made of these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.marked import write
from kdtool import registry
from kdtool.engine.graph import WARM
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.engine.update import Updater
from kdtool.errors import KdtoolError
from kdtool.events import Reporter
from kdtool.recipe import load as recipes
from kdtool.runs.execution import Execution
from kdtool.runs.setting import build_setting
from tests.recorded import Graph
from tests.simulated import Device, simulated

NOTES = Path(__file__).resolve().parent / "operations.json"
BEGIN, END = "<!-- operations: made by benchmarks/operations.py -->", "<!-- end of operations -->"

RECIPE = {
    "teacher": [{"model": "resnet32x4", "check": "off", "train": {"epochs": 1, "batch_size": 512}}],
    "student": {"model": "resnet8x4"},
    "train": {"device": "cuda", "batch_size": 8, "epochs": 4, "select": "last"},
    "optim": {"name": "sgd"},
    "data": {"views": 1, "labels_per_class": 8, "image_size": 8},
}
TEACHERS = {"computed": "off", "replayed": "build"}
"""Where its outputs come from, and the cache's mode."""

STEPS = WARM + 4
"""Steps of a stage that are looked at: its first, those that are taken as ever, the recorded one, and replayed ones."""

TEXT = """## What the host starts for a step

`python -m benchmarks.operations`: operations of a step from resnet32x4 to resnet8x4 in a method's last stage (batch 8,
sgd, fp32), views left out, counted on a simulated device; an operation is one kernel or a few. An epoch's first step
measures gradients. Where steps are recorded (`train.graph=auto`) the host starts the graph, copies to where it reads,
and with replayed teachers the search for their outputs.
"""

Figures = dict[str, dict[str, Any]]
"""Of a method, by where the teacher's outputs come from; or under "refused" why this pair is none for it."""


class _EnoughError(Exception):
    """All steps that are looked at were taken."""


class _Heard(Reporter):
    """Keeps why steps are not recorded, or outputs not replayed."""

    def __init__(self) -> None:
        self.graph = self.live = ""

    def note(self, text: str) -> None:
        if "CUDA graph" in text:
            reason = text.partition("(train.graph=auto), for ")[2] or text.partition("CUDA graph: ")[2]
            self.graph = reason.partition("; going on")[0]
        if "the teacher runs live" in text or "no outputs are kept" in text:
            self.live = text.partition(": ")[2] or text


@dataclass
class _Seen:
    """What the last stage's steps started so far, and how many operations are in the graph that was replayed."""

    steps: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)


def is_view(name: str) -> bool:
    """Tell whether an operation gives its input's own memory, and writes nothing."""
    packet = getattr(torch.ops.aten, name, None)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()] if packet is not None else []
    return bool(schemas) and all(
        any(each.alias_info is not None for each in schema.returns)
        and not any(each.alias_info is not None and each.alias_info.is_write for each in schema.arguments)
        for schema in schemas
    )


@contextmanager
def _counting(device: Device) -> Iterator[_Seen]:
    """Count the steps of the student's last stage, and end the training after ``STEPS`` of them."""
    seen = _Seen()
    step, replay = Updater.__call__, Graph.replay

    def counted(self: Updater, *args: Any, **kwargs: Any) -> Any:
        before = device.operations.copy()
        result = step(self, *args, **kwargs)
        if self.job.phase == "student" and self.planned.selects:
            started = device.operations - before
            seen.steps.append(sum(count for name, count in started.items() if not is_view(name)))
            if len(seen.steps) == STEPS:
                raise _EnoughError
        return result

    def unseen(self: Graph) -> None:
        before = device.operations.copy()
        replay(self)
        seen.inside.append(sum(not is_view(func.overloadpacket.__name__) for func, *_ in self.operations))
        device.operations.clear()
        device.operations.update(before + Counter({"graph": 1}))

    with patch.object(Updater, "__call__", counted), patch.object(Graph, "replay", unseen):
        yield seen


def train(method: str, cache: str, graph: str, folder: Path) -> tuple[_Seen, _Heard]:
    """Take a method's first steps, and return what they started and what was said of them.

    Raises:
        KdtoolError: this pair of networks is none for the method.
    """
    heard = _Heard()
    own = {"method": method, "cache": {"mode": cache}, "train": {**RECIPE["train"], "graph": graph}}  # type: ignore[dict-item]
    if alone(method):
        own["teacher"] = []
    with simulated() as device, StopRequest() as stop:
        execution = Execution(build_setting(recipes.from_dict({**RECIPE, **own}), heard), heard, folder)
        execution.ready_teachers(stop)
        job = execution.student_job(folder, execution.replay(stop))
        with _counting(device) as seen:
            try:
                fit(job, heard, stop)
            except _EnoughError:
                return seen, heard
    raise AssertionError(f"{method} took {len(seen.steps)} steps of its last stage, not {STEPS}")


def alone(method: str) -> bool:
    """Tell whether a method has no teacher."""
    return registry.get(method).teachers[1] == 0


def measured(method: str) -> Figures:
    """Return a method's figures."""
    found: Figures = {}
    for teacher, cache in ({"none": "off"} if alone(method) else TEACHERS).items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                plain, _ = train(method, cache, "off", Path(folder) / "plain")
                recorded, heard = train(method, cache, "auto", Path(folder) / "recorded")
        except KdtoolError as error:
            return {"refused": {"why": str(error).splitlines()[0]}}
        found[teacher] = {"step": plain.steps[-1], "first": plain.steps[0]}
        if recorded.inside:
            found[teacher] |= {"recorded": recorded.steps[-1], "inside": recorded.inside[-1]}
        else:
            found[teacher]["why"] = heard.graph
        if cache == "build" and heard.live:
            found[teacher] = {"live": heard.live}
    return found


def rows_of(method: str, found: Figures) -> list[str]:
    """Return a method's lines of the table, in Markdown."""
    lines = []
    for teacher, each in found.items():
        if "step" in each:
            recorded = [each["recorded"], each["inside"]] if "recorded" in each else [f"not: {each['why']}", ""]
            cells = [f"`{method}`", teacher, each["step"], each["first"], *recorded]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def page(notes: dict[str, Figures]) -> str:
    """Return the section of BENCHMARKS.md."""
    head = ["| method | teacher | a step | an epoch's first | recorded: the host starts | in the graph |"]
    head += ["| --- | --- | --- | --- | --- | --- |"]
    lines = [line for method in sorted(notes) for line in rows_of(method, notes[method])]
    why = {method: notes[method].get("replayed", {}).get("live") for method in sorted(notes)}
    live = [f"`{method}` ({reason})" for method, reason in why.items() if reason]
    refused = [f"`{method}`" for method in sorted(notes) if "refused" in notes[method]]
    said = [f"No outputs are replayed for {', '.join(live)}."] if live else []
    said += [f"This pair is none for {', '.join(refused)}."] if refused else []
    return "\n".join([TEXT, *head, *lines, "", *([" ".join(said), ""] if said else [])])


def kept() -> dict[str, Figures]:
    """Return the figures that are there."""
    found: dict[str, Figures] = json.loads(NOTES.read_text()) if NOTES.exists() else {}
    return found


def measure(methods: Sequence[str]) -> list[str]:
    """Measure methods one after the other, each told and kept before the next begins; return those that failed."""
    failed = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["KDTOOL_HOME"] = home
        for method in methods:
            try:
                found = measured(method)
            except Exception as error:  # a fault of one is not to cost the others their figures
                print(f"{method}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                failed.append(method)
                continue
            notes = {**kept(), method: found}
            NOTES.write_text(json.dumps(dict(sorted(notes.items())), indent=1) + "\n")
            print("\n".join(rows_of(method, found) or [f"{method}: {found}"]), flush=True)
    return failed


def main() -> None:
    """Measure, where asked to, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--missing", action="store_true", help="only those that have no figures yet")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    args = parser.parse_args()
    methods = args.methods or sorted(entry.name for entry in registry.entries())
    failed = measure([] if args.page else [each for each in methods if not (args.missing and each in kept())])
    write(BEGIN, END, page(kept()))
    if failed:
        raise SystemExit(f"not counted: {', '.join(failed)}")


if __name__ == "__main__":
    main()
