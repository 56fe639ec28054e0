"""The checks of what a task reads: data, batches, and that a sample is the same in whatever company it comes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.engine import tree
from kdtool.engine.dry import undisturbed
from kdtool.engine.job import Loaded
from kdtool.engine.step import as_out
from kdtool.registry import tasks
from kdtool.tasks.task import Reading, Task
from kdtool.testing.faults import at, require, some
from kdtool.testing.material import BATCH, CPU, Material, material, recipe_of
from kdtool.testing.promises import undocumented

TOLERANCE = 1e-9
"""Largest difference in fp64, relative to the size, that counts as none: kernels sum in another order."""


@dataclasses.dataclass(frozen=True)
class TaskBench:
    """What the checks of one task work on.

    Attributes:
        cls: the task's class.
        name: the task's.
    """

    cls: type[Task]
    name: str

    @property
    def material(self) -> Material:
        """Its tiny data and networks."""
        return material(self.name)


# --- the declaration --------------------------------------------------------------------------------------------


def fits_the_contract(bench: TaskBench) -> None:
    tasks.check(bench.cls, bench.name, "the class under test")
    require(bool((bench.cls.__doc__ or "").strip()), "the class has no docstring; `kdtool list-tasks` prints it")
    for section in ("Data", "Teacher", "Student"):
        bare = undocumented(getattr(bench.cls, section), section.lower())
        require(not bare, f"{some(bare)}: no help. Declare each with kdtool.option(default, help)")


def fingerprint_follows_the_data(bench: TaskBench) -> None:
    task = bench.material.task
    prints = []
    for seed in (0, 0, 1):
        with tempfile.TemporaryDirectory() as folder:
            recipe = recipe_of(task, Path(folder) / "data", seed)
            data = task.open(recipe)
            prints.append(data.fingerprint)
            again = task.open(recipe).fingerprint
            require(again == prints[-1], "the fingerprint of the same data differs when they are opened again")
            recipe.data.split_seed += 1
            if len({recipe.data.val_fraction, 0.0}) > 1:
                other = task.open(recipe).fingerprint
                require(other != again, "data.split_seed decides who is held out, but not the fingerprint")
    require(prints[1] != prints[2], "other samples have the same fingerprint: caches would take them for these")


# --- batches ----------------------------------------------------------------------------------------------------


def batches_are_whole(bench: TaskBench) -> None:
    found = bench.material
    for train, split in ((True, found.split), (False, found.data.test)):
        batches = list(_read(found, split, train))
        labels = torch.from_numpy(split.labels)
        for batch in batches:
            require(batch.labels.shape[0] == batch.index.shape[0], "a batch has as many labels as numbers of rows")
            require(batch.rows is None or sum(batch.rows) == len(batch.index), "Loaded.rows add up to its rows")
            same = batch.labels.ndim == 2 or torch.equal(batch.labels, labels[batch.index])
            require(same, "a batch's labels are those of the split at its index")
            require(not train or batch.samples == BATCH, "batches to train on are whole")
        index = torch.cat([batch.index for batch in batches])
        if train:
            require(len(index.unique()) == len(index), "an epoch takes no sample twice")
        else:
            require(torch.equal(index, torch.arange(len(labels))), "evaluation reads every row once, in order")


def workers_change_nothing(bench: TaskBench) -> None:
    found = bench.material
    alone, shared = (list(_read(found, found.split, True, workers=workers, budget=0.0)) for workers in (0, 2))
    kept = list(_read(found, found.split, True))
    _require_equal(alone, shared, "with two data.workers")
    _require_equal(alone, kept, "kept in memory (data.memory_budget_gb)")


def processes_share_batches(bench: TaskBench) -> None:
    found = bench.material
    whole = list(_read(found, found.split, True))
    parts = [list(_read(found, found.split, True, part=(number, 2))) for number in range(2)]
    halves = [half for batch in whole for half in batch.split(2)]
    _require_equal(halves, [part for pair in zip(*parts, strict=True) for part in pair], "in two processes, to train")
    test = list(_read(found, found.data.test, False))
    shares = [list(_read(found, found.data.test, False, part=(number, 2))) for number in range(2)]
    _require_equal(test, [shares[i % 2][i // 2] for i in range(len(test))], "in two processes, to evaluate")


def epochs_can_be_entered(bench: TaskBench) -> None:
    found = bench.material
    for start in (0, 1):
        _require_equal(
            list(_read(found, found.split, True, epoch=1))[start:],
            list(_read(found, found.split, True, epoch=1, start=start)),
            f"read again from batch {start} on",
        )
    orders = [torch.cat([b.index for b in _read(found, found.split, True, epoch=e)]) for e in (0, 1)]
    require(not torch.equal(*orders), "two epochs have the same order")


def further_views_follow_from_the_sample(bench: TaskBench) -> None:
    found, names = bench.material, tuple(bench.cls.views)
    usual = list(_read(found, found.split, True, epoch=1))
    each = list(_read(found, found.split, True, epoch=1, views=names))
    _require_equal(usual, [dataclasses.replace(b, inputs=tree.usual(b.inputs)) for b in each], "with further views")
    for workers in (0, 2):
        again = list(_read(found, found.split, True, epoch=1, start=1, workers=workers, views=names))
        _require_equal(each[1:], again, f"with further views, entered later with {workers} data.workers")
    other = next(iter(_read(found, found.split, True, epoch=1, views=names, size=3)))
    require(tree.usual(other.inputs) is not other.inputs, "batches to train on hold no further views")
    for name in names:
        require(name in each[0].inputs.further, f"a batch has no view {name!r}, which the task declares")
        own, more = (list(tree.tensors(inputs)) for inputs in (usual[0].inputs, each[0].inputs.further[name]))
        same = len(own) == len(more) and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(own, more, strict=False)
        )
        require(not same, f"the view {name!r} is the usual one")
    student, _ = found.networks(found.kinds[0], [], 0, False)
    reading = Reading(BATCH, 0, CPU, True, channels_last=False, views=names)
    batches: Any = found.task.batches(found.data, found.split, found.recipe, [student], reading)
    at = each[0].view
    (replayed,) = batches.view(at, [each[0].index])
    _require_equal(each[:1], [replayed], "read again by view and position, as the cache does")


def _read(
    found: Material, split: Any, train: bool, *, size: int = BATCH, part: tuple[int, int] = (0, 1), epoch: int = 0,
    start: int = 0, workers: int = 0, budget: float | None = None, views: tuple[str, ...] = (),
) -> Iterator[Loaded]:  # fmt: skip
    recipe = dataclasses.replace(found.recipe, data=dataclasses.replace(found.recipe.data, workers=workers))
    if budget is not None:
        recipe.data.memory_budget_gb = budget
    student, _ = found.networks(found.kinds[0], [], 0, False)
    reading = Reading(size, 0, CPU, train, part, channels_last=False, views=views)
    yield from found.task.batches(found.data, split, recipe, [student], reading).epoch(epoch, start)


def _require_equal(one: list[Loaded], other: list[Loaded], what: str) -> None:
    require(len(one) == len(other), f"{what}, there are {len(other)} batches instead of {len(one)}")
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        tensors = [list(tree.tensors([batch.inputs, batch.labels, batch.index])) for batch in (a, b)]
        same = len(tensors[0]) == len(tensors[1]) and all(map(torch.equal, *tensors))
        require(same and a.view == b.view and a.rows == b.rows, f"{what}, batch {number} is another one")


# --- rows -------------------------------------------------------------------------------------------------------


def rows_do_not_see_their_batch(bench: TaskBench) -> None:
    """Outputs of a sample are compared, not inputs: sequences are padded to their batch."""
    found = bench.material
    for kind in found.kinds:
        student, _ = found.networks(kind, [], 0, False)
        network = student.tapped().double()
        eight, three = (
            _by_row(network, list(_read(found, found.split, True, size=size, epoch=0))) for size in (BATCH, 3)
        )
        both = sorted(eight.keys() & three.keys())
        require(bool(both), "no sample is in an epoch of batches of 8 and in one of 3")
        _require_close([eight[i] for i in both], [three[i] for i in both], f"{kind}: in a batch of another size")


def batches_split_into_samples(bench: TaskBench) -> None:
    found = bench.material
    for kind in found.kinds:
        student, _ = found.networks(kind, [], 0, False)
        network = student.tapped().double()
        for batch in _read(found, found.data.test, False):
            whole = _by_row(network, [batch])
            parts = _by_row(network, batch.parts([1] * batch.samples))
            _require_close(list(whole.values()), [parts[i] for i in whole], f"{kind}: split into its samples")


def teachers_take_the_students_batches(bench: TaskBench) -> None:
    found = bench.material
    for kind in found.kinds:
        for other in found.kinds:
            with at(f"{kind} student, {other} teacher"):
                student, (teacher,) = found.networks(kind, [other], 0, False)
                adapted = found.task.adapt(teacher.tapped(), teacher, student).eval()
                batch = found.batches([student, teacher])[0]
                with torch.no_grad():
                    out = as_out(adapted(batch.inputs), lambda tensor: tensor)
                rows, wanted = out.logits.shape[0], len(batch.labels)
                require(rows == wanted, f"an adapted teacher gives {rows} rows for {wanted}")
                require(bool(out.logits.isfinite().all()), "an adapted teacher's outputs are not finite")


def _by_row(network: Any, batches: list[Loaded]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for batch in batches:
        with undisturbed(network):
            logits = as_out(network(tree.cast(batch.inputs, torch.float64)), lambda tensor: tensor).logits
        found |= dict(zip(batch.index.tolist(), logits, strict=True))
    return found


def _require_close(one: list[Tensor], other: list[Tensor], what: str) -> None:
    a, b = torch.stack(one), torch.stack(other)
    apart = float((a - b).norm() / a.norm())
    require(apart <= TOLERANCE, f"{what}, a sample's outputs differ by {apart:.1e} of their size")


# --- the metric -------------------------------------------------------------------------------------------------


def meter_merges(bench: TaskBench) -> None:
    found = bench.material
    labels = found.labels
    logits = torch.randn(len(labels), found.objective.num_classes, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(labels))
    whole, *parts = (found.objective.meter() for _ in range(4))
    whole.add(logits, labels, rows)
    for number, meter in enumerate(parts):
        for each in rows[number::3].split(5):
            meter.add(logits[each], labels[each], each)
    parts[0].merge([meter.state() for meter in parts])
    want, got = whole.metrics(), parts[0].metrics()
    key = found.task.headline.key
    require(key in want, f"the meter gives no {key!r}, which the task's headline names")
    require(want.keys() == got.keys(), f"merged, the meter gives {some(got)} instead of {some(want)}")
    for name, value in want.items():
        same = value == got[name] or (isinstance(value, float) and np.isclose(value, got[name], rtol=1e-12, atol=0.0))
        require(bool(same), f"merged over three processes, {name} is {got[name]} instead of {value}")


def labels_may_be_missing(bench: TaskBench) -> None:
    found = bench.material
    labels = found.labels[:BATCH].clone()
    logits = torch.randn(BATCH, found.objective.num_classes, generator=torch.Generator().manual_seed(0))
    labels[::2] = -1
    loss = found.objective.hard_loss(logits, labels)
    known = found.objective.hard_loss(logits[1::2], labels[1::2])
    require(bool(torch.isclose(loss, known, rtol=1e-5)), "rows without a label (-1) change the hard loss of the others")
    none = found.objective.hard_loss(logits, torch.full_like(labels, -1))
    require(float(none) == 0.0, "without any label the hard loss is not zero")
