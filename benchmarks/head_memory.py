"""What a language model's head costs: peak memory and time of one step's loss and gradient, whole and by rows.

    python benchmarks/head_memory.py [--rows 2048] [--classes 49152] [--methods kd,gkd] [--options KEY=VALUE] [--json]

Every row-wise method without taps is tried in a process of its own: a teacher's and a student's hidden rows (width 576
and 256) through their heads, the method's loss and the hard labels', backward; where a method gives credit for what a
student draws, of rows that were drawn, in answers of 64. What is told is the peak of resident
memory less what stood there before the step: the weights, zeros for their gradient, and the hidden rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

WIDTHS = 576, 256
"""Of the teacher's and the student's hidden rows."""


ANSWER = 64
"""Rows of an answer."""


def step(name: str, rows: int, classes: int, whole: bool, options: Sequence[str] = ()) -> dict[str, Any]:
    """Return the peak bytes beyond what stood there, the seconds, and sums of loss and gradient, of one step."""
    import torch
    from torch import nn

    from kdtool import registry
    from kdtool.engine import rows as engine_rows
    from kdtool.engine.meters import total
    from kdtool.engine.precision import Precision
    from kdtool.engine.rows import Deferred
    from kdtool.engine.step import Step
    from kdtool.method import Drawn, Out, Setup
    from kdtool.tasks.common.classification import Classification

    if whole:
        engine_rows.CHUNK = rows
    torch.manual_seed(0)
    theirs, ours = (nn.Linear(width, classes, bias=False) for width in WIDTHS)
    theirs.requires_grad_(False)
    cls = registry.get(name)
    method = cls(_config(cls, options), Setup({}, [{}], classes, rows, rows))
    labels, index = torch.randint(classes, (rows,)), torch.arange(rows)
    one = Step(ours, method, [], Classification(classes).hard_loss, Precision("fp32", torch.device("cpu")))
    one.stage = method.stages()[-1]
    hidden = torch.randn(rows, WIDTHS[1], requires_grad=True)
    taught = [Out(Deferred(torch.randn(rows, WIDTHS[0]), theirs, classes))]  # type: ignore[arg-type]
    ours.weight.grad = torch.zeros_like(ours.weight)
    drawn: dict[str, Any] = {}
    if one.stage.credit is not None:
        lengths = [min(ANSWER, rows - start) for start in range(0, rows, ANSWER)]
        student, teacher, mixed = -torch.rand(3, rows)
        drawn = {"class": labels, **one.stage.credit(Drawn(labels, lengths, student, [teacher], mixed))}
    before, began = _peak(), time.perf_counter()
    terms, _ = one.losses(
        Out(Deferred(hidden, ours, classes)), taught, labels, index, 0, 0.0, drawn=drawn,  # type: ignore[arg-type]
    )  # fmt: skip
    loss = total(terms)
    loss.backward()
    seconds = time.perf_counter() - began
    assert hidden.grad is not None
    sums = [float(loss.detach()), float(hidden.grad.double().norm()), float(ours.weight.grad.double().norm())]
    return {"bytes": _peak() - before, "seconds": round(seconds, 2), "sums": sums}


def _config(cls: Any, options: Sequence[str]) -> Any:
    """Return a method's options, some of them given as KEY=VALUE."""
    from omegaconf import OmegaConf

    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls.Config), OmegaConf.from_dotlist(list(options))))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def row_wise() -> list[str]:
    """Return the methods whose loss reads logits alone, row by row, and trains with one teacher."""
    from kdtool import registry

    found = []
    for entry in registry.entries():
        cls = entry.load()
        taps = cls.taps(cls.Config())
        fits = cls.batch == "sample" and not cls.online and cls.teachers[0] == 1
        if fits and not taps.student and not taps.teacher and not cls.views(cls.Config()):
            found.append(entry.name)
    return found


def measured(name: str, rows: int, classes: int, whole: bool, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--rows", str(rows), "--classes", str(classes)]
    command += [word for each in options for word in ("--options", each)]
    done = subprocess.run(command + ["--whole"] * whole, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=49152)
    parser.add_argument("--methods", help="instead of all row-wise ones")
    parser.add_argument("--options", action="append", default=[], help="of the methods; may be said several times")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(step(given.one, given.rows, given.classes, given.whole, given.options)))
        return
    found = {}
    for name in given.methods.split(",") if given.methods else row_wise():
        found[name] = {how: measured(name, given.rows, given.classes, how == "whole", given.options)
                       for how in ("whole", "by rows")}  # fmt: skip
        if not given.json:
            whole, by_rows = found[name].values()
            print(
                f"{name:10} {by_rows['bytes'] / 2**20:6.0f} MB by rows, {whole['bytes'] / 2**20:6.0f} MB whole; "
                f"time {by_rows['seconds'] / whole['seconds']:.2f} of {whole['seconds']:.1f} s",
                flush=True,
            )
    if given.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
