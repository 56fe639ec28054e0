"""The checks that another way to run a method gives the same: compiled, and in several processes."""

from __future__ import annotations

import torch

from kdtool.testing.bench import Bench, total
from kdtool.testing.faults import require, some
from kdtool.testing.material import BATCH
from kdtool.testing.processes import compare

TOLERANCE, ROUNDING = 1e-6, 1e-4
"""Largest difference, relative to the size, that counts as none; and what fp32 may make of it."""


def compiled_equals_eager(bench: Bench, backend: str, pairs: list[tuple[str, str]]) -> None:
    for student, teacher in pairs:
        # In fp64: compiled kernels round otherwise, and batch norm over few values makes much of that in fp32.
        rig = bench.rig(student, teacher, precision="fp64")
        for stage in rig.stages:
            rig.enter(stage)
            torch._dynamo.reset()
            try:
                compiled = torch.compile(rig.step, backend=backend)
                outcomes = []
                for step in (None, compiled):
                    terms, _ = rig.run(rig.batches[0], step=step)
                    total(terms).backward()
                    outcomes.append({**{n: t.detach() for n, t in terms.items()}, **rig.gradients()})
            finally:
                torch._dynamo.reset()
            require(
                outcomes[0].keys() == outcomes[1].keys(),
                f"stage {stage.name}: compiled, other terms or gradients appear "
                f"({some(outcomes[0].keys() ^ outcomes[1].keys())})",
            )
            scale = max(float(tensor.norm()) for tensor in outcomes[0].values())
            for name, eager in outcomes[0].items():
                apart = float((eager - outcomes[1][name]).norm())
                size = max(float(eager.norm()), 1e-3 * scale)
                where = f"{student} student, {teacher} teacher, stage {stage.name}"
                require(
                    apart <= TOLERANCE * size, f"{where}: compiled, {name} differs by {apart / size:.1e} of its size"
                )


def two_processes_equal_one(bench: Bench, pairs: list[tuple[str, str]]) -> None:
    for pair in pairs:
        apart = compare(bench, pair, "fp32")
        if TOLERANCE < max(apart.values()) < ROUNDING:
            # Some losses enlarge the rounding of fp32, in one process as in two: then more digits decide.
            apart = compare(bench, pair, "fp64")
        for where, gap in apart.items():
            require(
                gap <= TOLERANCE,
                f"{pair[0]} student, {pair[1]} teacher, {where}: two processes of {BATCH // 2} samples differ from one "
                f"of {BATCH} by {gap:.1e} of its size. A method whose terms couple samples declares "
                'batch = "global"; terms of others are means over the batch',
            )
