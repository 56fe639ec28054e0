"""The checks of what a method declares and of the terms that it returns. Each raises where a promise is broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from kdtool import registry
from kdtool.engine.job import Loaded
from kdtool.engine.plan import plan_stages
from kdtool.engine.step import TASK
from kdtool.recipe import sections
from kdtool.testing.bench import Bench, Rig, total
from kdtool.testing.faults import RefusedError, at, require, some

# --- the declaration --------------------------------------------------------------------------------------------


def fits_the_contract(bench: Bench) -> None:
    registry.check(bench.cls, bench.name, "the class under test")
    require(bool((bench.cls.__doc__ or "").strip()), "the class has no docstring; `kdtool show` prints its first lines")


def options_are_documented(bench: Bench) -> None:
    bare = undocumented(bench.cls.Config, bench.name)
    require(not bare, f"{', '.join(bare)}: no help. Declare each with kdtool.option(default, help)")


def undocumented(config: type, path: str) -> list[str]:
    """Return the dotted names of a section's options that have no help."""
    return [name for name, field in _fields(config, path) if not str(field.metadata.get("help") or "")]


def _fields(config: type, path: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        nested = sections.section_of(hints[field.name]) or sections.section_of(sections.list_item(hints[field.name]))
        if nested is not None:
            yield from _fields(nested, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", field


def defaults_construct(bench: Bench) -> None:
    # The defaults have to pass the very validation that a user's values go through.
    sections.build(bench.cls.Config, sections.to_plain(bench.cls.Config()), bench.name)
    rig = bench.rig()
    plan_stages(rig.method, 10, None)
    stray = [name for name, value in vars(rig.method).items() if isinstance(value, Tensor)]
    require(
        not stray,
        f"self.{', self.'.join(stray)}: a plain tensor, neither moved to the device nor saved. Use register_buffer",
    )


def taps_resolve(bench: Bench) -> None:
    for student, teacher in bench.pairs:
        with at(f"{student} student, {teacher} teacher"):
            bench.rig(student, teacher)


# --- the terms --------------------------------------------------------------------------------------------------


def terms_are_finite(bench: Bench, precision: str) -> None:
    for student, teacher in bench.pairs:
        rig = bench.rig(student, teacher, precision=precision)
        _check_terms(rig, rig.batches[0], f"{student} student, {teacher} teacher")


def double_precision_stays(bench: Bench) -> None:
    rig = bench.rig(precision="fp64")
    for stage in rig.stages:
        rig.enter(stage)
        lost = [name for name, term in rig.terms(rig.batches[0]).items() if term.dtype != torch.float64]
        require(not lost, f"stage {stage.name}: under fp64, {some(lost)} is of lower precision; do not call .float()")


def several_teachers_are_taken(bench: Bench) -> None:
    student = bench.pairs[0][0]
    kinds = [theirs for ours, theirs in bench.pairs if ours == student]
    first, last = kinds[0], kinds[-1]
    rig = bench.rig(student, [first, last, *[first] * (bench.teacher_count - 2)])
    _check_terms(rig, rig.batches[0], f"{first} and {last} as teachers")


def equal_networks_are_taken(bench: Bench) -> None:
    def copy_weights(student: nn.Module, teachers: list[nn.Module]) -> None:
        for teacher in teachers:
            teacher.load_state_dict(student.state_dict())

    # Without batch norm, so that a student in training gives what a teacher in evaluation gives.
    alike = [ours for ours, theirs in bench.pairs if ours == theirs]
    if not alike:
        raise RefusedError(next(iter(bench.refusals.values())))
    last = alike[-1]
    rig = bench.rig(last, last, change=copy_weights)
    _check_terms(rig, rig.batches[0], "student and teacher with equal weights", after_training=False)


def missing_labels_are_taken(bench: Bench) -> None:
    for what, unlabelled in (("half of the labels missing", slice(None, None, 2)), ("no label at all", slice(None))):
        labels = bench.material.labels.clone()
        labels[unlabelled] = -1
        rig = bench.rig(labels=labels)
        batch = rig.batches[0]
        _check_terms(rig, dataclasses.replace(batch, labels=labels[batch.index]), what)


def mixed_labels_are_taken(bench: Bench) -> None:
    rig = bench.rig()
    batch = rig.batches[0]
    rows = torch.eye(bench.material.objective.num_classes)[batch.labels]
    rows = 0.7 * rows + 0.3 * rows.flip(0)
    rows[0] = 0  # a sample without a label
    _check_terms(rig, dataclasses.replace(batch, labels=rows), "mixed labels, (B, K)")


def _check_terms(rig: Rig, batch: Loaded, what: str, after_training: bool = True) -> None:
    """Check the terms and gradients of every stage, at its start and after a step."""
    for stage in rig.stages:
        with at(f"{what}, stage {stage.name}"):
            rig.enter(stage)
            _check_loss(rig, batch)
            if after_training:
                rig.train(batch, lr=1e-3)
                with at("after a step"):
                    _check_loss(rig, batch)
            taken = set(stage.loss(rig.run(batch)[1])) & {TASK, "total"}
            require(not taken, f"a term is called {some(taken)}, a name of the engine's own")


def _check_loss(rig: Rig, batch: Loaded) -> None:
    terms = rig.terms(batch)
    loss = total(terms)
    for name, term in terms.items():
        require(term.dtype in (torch.float32, torch.float64), f"term {name} is {term.dtype}, not at least fp32")
        require(bool(term.isfinite()), f"term {name} is {term.item()}")
    if loss.requires_grad:  # without labels a stage may have nothing to learn from
        loss.backward()
    odd = [name for name, gradient in rig.gradients().items() if not gradient.isfinite().all()]
    require(not odd, f"the gradient of {some(odd)} is not finite")
