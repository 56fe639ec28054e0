"""Several methods as one: all early stages in order, then a joint last stage that sums the terms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.plan import share_of
from kdtool.engine.watched import Watched
from kdtool.errors import InputError
from kdtool.method import Batch, Drawn, Layer, Method, Out, Parts, Setup, Stage, Taps, Terms

_SEPARATOR = "/"  # no method's name holds one, so roles of different parts never meet


def combined_taps(classes: Mapping[str, type[Method]], options: Mapping[str, Any]) -> Taps:
    """Return the taps that all parts together need.

    Args:
        classes: method classes by name, in order.
        options: each method's ``Config`` by name.
    """
    each = {name: cls.taps(options[name]) for name, cls in classes.items()}
    if len(each) == 1:
        return next(iter(each.values()))
    student: dict[str, Layer | Sequence[Layer]] = {}
    teacher: dict[str, Layer | Sequence[Layer]] = {}
    for name, taps in each.items():
        student |= {f"{name}{_SEPARATOR}{role}": layer for role, layer in taps.student.items()}
        teacher |= {f"{name}{_SEPARATOR}{role}": layer for role, layer in taps.teacher.items()}
    return Taps(student, teacher)


def build_method(classes: Mapping[str, type[Method]], options: Mapping[str, Any], setup: Setup) -> Method | None:
    """Return the run's method: None without any, a single one as it is, several as one.

    Args:
        classes: method classes by name, in order.
        options: each method's ``Config`` by name.
        setup: measured with ``combined_taps``.
    """
    if not classes:
        return None
    if len(classes) == 1:
        ((name, cls),) = classes.items()
        return cls(options[name], setup)
    return Combined({name: cls(options[name], _setup_of(setup, name)) for name, cls in classes.items()}, setup)


def composed(method: Method | None, task_weight: float) -> list[str]:
    """Return sentences on what was made of several methods' weights; none of a single one.

    Args:
        method: the run's.
        task_weight: the last stage's weight of the hard labels.
    """
    return [method.weights_of_labels(task_weight)] if isinstance(method, Combined) else []


class Combined(Method):
    """Methods side by side. Terms carry the part's name: "rkd.angle" for term "angle" of a part "rkd".

    The joint stage's hard-label weight is the product of the parts' weights, so that each part's share holds;
    ``weights_of_labels`` says so, and ``train.task_weight`` sets another.
    """

    api = 1

    def __init__(self, parts: Mapping[str, Method], setup: Setup):
        super().__init__(None, setup)
        self.parts = nn.ModuleDict(parts)
        # One part that couples samples makes the whole batch global; the others take no harm.
        self.batch = "global" if any(part.batch == "global" for part in parts.values()) else "sample"  # type: ignore[misc]
        self._stages = {name: part.stages() for name, part in parts.items()}
        self._current: list[str] = list(parts)

    def stages(self) -> list[Stage]:
        early = [
            replace(stage, name=f"{name}.{stage.name}", loss=self._loss_of([name], [stage]))
            for name, stages in self._stages.items()
            for stage in stages[:-1]
        ]
        last = [stages[-1] for stages in self._stages.values()]
        trains = tuple(who for who in ("student", "method") if any(who in stage.trains for stage in last))
        joint = Stage(
            "+".join(dict.fromkeys(stage.name for stage in last)),
            self._loss_of(list(self._stages), last),
            trains=trains,
            task_weight=prod(stage.task_weight for stage in last),
            lr=self._agreed("lr", last),
            schedule=self._agreed("schedule", last),
            on_policy=_largest_share(last),
            teacher_mix=self._agreed("teacher_mix", last, nothing=0.0) or 0.0,
            replay=max(stage.replay for stage in last),
            credit=self._credit_of(last) if any(stage.credit for stage in last) else None,
        )
        if any(stage.teacher_writes for stages in self._stages.values() for stage in stages):
            raise InputError("a method whose samples the teacher writes cannot be joined with another one by +.")
        if any(stage.turns for stage in last):
            raise InputError("a method that updates networks in turn cannot be joined with another one by +.")
        return [*early, joint]

    def weights_of_labels(self, weight: float) -> str:
        """Return a sentence on what the parts' weights of the hard labels come to in the joint stage.

        Args:
            weight: the one that holds, which ``train.task_weight`` may have set.
        """
        own = {name: stages[-1].task_weight for name, stages in self._stages.items()}
        product, factors = prod(own.values()), " x ".join(f"{value:g} ({name})" for name, value in own.items())
        label = "+".join(own)
        if weight != product:
            return f"{label}: the hard labels weigh {weight:g} by train.task_weight, instead of {factors} = {product:g}"
        return (
            f"{label}: the hard labels weigh {factors} = {product:g}, and each method's terms what it says itself; "
            "train.task_weight sets another weight of the hard labels"
        )

    def _methods(self) -> Iterator[tuple[str, Method]]:
        return ((name, part) for name, part in self.parts.items() if isinstance(part, Method))

    def _agreed(self, what: str, last: list[Stage], nothing: float | None = None) -> Any:
        """Return what the parts' last stages say of themselves, None where none does, but ``nothing``."""
        said = {name: getattr(stage, what) for name, stage in zip(self._stages, last, strict=True)}
        said = {name: value for name, value in said.items() if value != nothing}
        if len(set(said.values())) > 1:
            each = ", ".join(f"{name}: {value}" for name, value in said.items())
            raise InputError(f"the methods' last stage is one, but they want another {what} each ({each}).")
        return next(iter(said.values()), None)

    def _loss_of(self, names: list[str], stages: list[Stage]) -> Any:
        def loss(batch: Batch) -> Terms:
            self._current = names
            return {
                f"{name}.{term}": value
                for name, stage in zip(names, stages, strict=True)
                for term, value in stage.loss(_batch_of(batch, name)).items()
            }

        return loss

    def _credit_of(self, stages: list[Stage]) -> Any:
        def credit(drawn: Drawn) -> dict[str, Tensor]:
            return {
                f"{name}{_SEPARATOR}{key}": values
                for name, stage in zip(self._stages, stages, strict=True)
                if stage.credit is not None
                for key, values in stage.credit(drawn).items()
            }

        return credit

    def ships(self, student: nn.Module) -> nn.Module:
        for _, part in self._methods():
            student = part.ships(student)
        return student

    def predictions(self, student: Out) -> dict[str, Tensor]:
        return {
            f"{name}.{each}": logits
            for name, part in self._methods()
            for each, logits in part.predictions(_out_of(student, name)).items()
        }

    def remarks(self) -> list[str]:
        return [remark for _, part in self._methods() for remark in part.remarks()]

    def apart(self, batch: Batch) -> Iterator[tuple[str, Method, Batch]]:
        """Yield the name of each part, it, and the batch as it sees it."""
        return ((name, part, _batch_of(batch, name)) for name, part in self._methods())

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        for name in self._current:
            part = self.parts[name]
            assert isinstance(part, Method)
            part.after_step(_batch_of(batch, name))

    def after_validation(self, metrics: Mapping[str, Any]) -> None:
        for _, part in self._methods():
            part.after_validation(metrics)


def _largest_share(stages: list[Stage]) -> float | Callable[[], float]:
    """Return the largest share of batches that the student writes; one that changes is asked for each time."""
    if not any(callable(stage.on_policy) for stage in stages):
        return max(share_of(stage) for stage in stages)
    return lambda: max(share_of(stage) for stage in stages)


def _of(items: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}{_SEPARATOR}"
    if isinstance(items, Watched):
        return items.part(prefix)
    return {role.removeprefix(prefix): item for role, item in items.items() if role.startswith(prefix)}


def _setup_of(setup: Setup, name: str) -> Setup:
    # Not dataclasses.replace, which would read what a stream's setup has not got.
    part = copy.copy(setup)
    vars(part).update(
        student=_of(setup.student, name),
        teachers=[_of(shapes, name) for shapes in setup.teachers],
        student_parts=_parts_of(setup.student_parts, name),
        teacher_parts=[_parts_of(parts, name) for parts in setup.teacher_parts],
    )
    return part


def _parts_of(parts: Parts, name: str) -> Parts:
    return replace(parts, norms=_of(parts.norms, name), pooled=_of(parts.pooled, name))


def _batch_of(batch: Batch, name: str) -> Batch:
    drawn = {key: values for key, values in batch.drawn.items() if _SEPARATOR not in key} | _of(batch.drawn, name)
    teachers = [_out_of(out, name) for out in batch.teachers]
    return replace(batch, student=_out_of(batch.student, name), teachers=teachers, drawn=drawn)


def _out_of(out: Out, name: str) -> Out:
    # What is watched stays so: items are looked at when the part asks for them.
    views = out.views.mapped(lambda each: _out_of(each, name)) if isinstance(out.views, Watched) else {
        view: _out_of(each, name) for view, each in out.views.items()
    }  # fmt: skip
    return replace(out, taps=_of(out.taps, name), views=views)
