"""How many operations the host starts for a step from resnet32x4 to resnet8x4, with and without a graph.

    python -m benchmarks.operations [METHOD ...]

No card is needed: a simulated device counts what is dispatched to it (``tests/simulated.py``). A view of a tensor's
memory starts nothing and is not counted; an operation is a kernel or a few of them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from kdtool.engine.update import Updater
from tests.recorded import Graph
from tests.running import call
from tests.simulated import Device, simulated

GIVEN = [
    "run",
    "--teacher",
    "resnet32x4",
    "--student",
    "resnet8x4",
    "--device",
    "cuda",
    "data.views=1",
]
GIVEN += ["--batch-size", "8", "--epochs", "1", "data.labels_per_class=8", "optim.name=sgd", "teacher.train.epochs=1"]
GIVEN += ["data.image_size=8", "teacher.check=off", "teacher.train.batch_size=512", "train.select=last"]

METHODS = ("kd", "dkd", "dist", "at", "rkd", "crd", "reviewkd")
TEACHERS = {"computed": [], "replayed": ["cache.mode=build"]}


def is_view(name: str) -> bool:
    """Tell whether an operation gives its input's own memory, and writes nothing."""
    packet = getattr(torch.ops.aten, name, None)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()] if packet is not None else []
    return bool(schemas) and all(
        any(each.alias_info is not None for each in schema.returns)
        and not any(each.alias_info is not None and each.alias_info.is_write for each in schema.arguments)
        for schema in schemas
    )


def per_step(device: Device, *more: str) -> tuple[list[Counter[str]], list[int]]:
    """Return what each of the student's steps started, and how many operations were in each graph that was replayed."""
    found: list[Counter[str]] = []
    inside: list[int] = []
    step, replay = Updater.__call__, Graph.replay

    def counted(self: Updater, *args: Any, **kwargs: Any) -> Any:
        before = device.operations.copy()
        result = step(self, *args, **kwargs)
        if self.job.phase == "student":
            found.append(Counter({n: c for n, c in (device.operations - before).items() if not is_view(n)}))
        return result

    def unseen(self: Graph) -> None:
        before = device.operations.copy()
        replay(self)
        inside.append(sum(not is_view(func.overloadpacket.__name__) for func, *_ in self.operations))
        device.operations.clear()
        device.operations.update(before + Counter({"graph": 1}))

    with tempfile.TemporaryDirectory() as folder, patch.object(Updater, "__call__", counted):
        with patch.object(Graph, "replay", unseen):
            done = call(*GIVEN, *more, "--out", Path(folder) / "run")
        assert done.code == 0, done.err
    return found, inside


def main() -> None:
    home = tempfile.TemporaryDirectory()
    os.environ["KDTOOL_HOME"] = home.name
    print("| method | teacher | a step | an epoch's first | recorded: the host starts | in the graph |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for method in sys.argv[1:] or METHODS:
        for teacher, more in TEACHERS.items():
            cells: list[str] = []
            for mode in ("off", "auto"):
                with simulated() as device:
                    steps, inside = per_step(device, "--method", method, *more, f"train.graph={mode}")
                usual = f"{median(sum(each.values()) for each in steps[5:]):g}"
                recorded = [usual, str(inside[-1])] if inside else ["not recorded", ""]
                cells += [usual, str(sum(steps[0].values()))] if mode == "off" else recorded
            print(f"| `{method}` | {teacher} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
