"""The checks: what a method promises the engine, each one a function that raises where it is broken."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdtool import registry, sections
from kdtool.engine.plan import plan_stages
from kdtool.engine.step import TASK
from kdtool.method import Method, Out
from kdtool.testing.bench import BATCH, CLASSES, CNN, VIT, Bench, Data, Rig, all_labels, data, total


class CheckError(AssertionError):
    """A method breaks a promise; the message says which and how to keep it."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what ``expected_failures`` calls it.
        promise: what it makes sure of.
        run: raises where the promise is broken.
        slow: it takes minutes, and is left out unless asked for.
        unless: returns why a method need not be checked, or None.
    """

    name: str
    promise: str
    run: Callable[[Bench], None]
    slow: bool = False
    unless: Callable[[type[Method]], str | None] = lambda cls: None


def require(condition: bool, message: str) -> None:
    """Raise ``CheckError`` where ``condition`` does not hold."""
    if not condition:
        raise CheckError(message)


# --- the declaration --------------------------------------------------------------------------------------------


def fits_the_contract(bench: Bench) -> None:
    registry.check(bench.cls, bench.name, "the class under test")
    require(bool((bench.cls.__doc__ or "").strip()), "the class has no docstring; `kdtool show` prints its first lines")


def options_are_documented(bench: Bench) -> None:
    bare = [path for path, field in _fields(bench.cls.Config, bench.name) if not str(field.metadata.get("help") or "")]
    require(not bare, f"{', '.join(bare)}: no help. Declare each with kdtool.option(default, help)")


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
        with _at(f"{student} student, {teacher} teacher"):
            bench.rig(student, teacher)


# --- the terms --------------------------------------------------------------------------------------------------


def terms_are_finite(bench: Bench, precision: str) -> None:
    for student, teacher in bench.pairs:
        _check_terms(bench.rig(student, teacher, precision=precision), data(), f"{student} student, {teacher} teacher")


def double_precision_stays(bench: Bench) -> None:
    rig = bench.rig(precision="fp64")
    for stage in rig.stages:
        rig.enter(stage)
        lost = [name for name, term in rig.terms(data()).items() if term.dtype != torch.float64]
        require(not lost, f"stage {stage.name}: under fp64, {_some(lost)} is of lower precision; do not call .float()")


def several_teachers_are_taken(bench: Bench) -> None:
    rig = bench.rig(CNN, [CNN, VIT, *[CNN] * (bench.teacher_count - 2)])
    _check_terms(rig, data(), "a CNN and a ViT as teachers")


def equal_networks_are_taken(bench: Bench) -> None:
    def copy_weights(student: nn.Module, teachers: list[nn.Module]) -> None:
        for teacher in teachers:
            teacher.load_state_dict(student.state_dict())

    # Without batch norm, so that a student in training gives what a teacher in evaluation gives.
    rig = bench.rig(VIT, VIT, change=copy_weights)
    _check_terms(rig, data(), "student and teacher with equal weights", after_training=False)


def missing_labels_are_taken(bench: Bench) -> None:
    for what, unlabelled in (("half of the labels missing", slice(None, None, 2)), ("no label at all", slice(None))):
        labels = all_labels()
        labels[unlabelled] = -1
        batch = data()
        _check_terms(bench.rig(labels=labels), Data(batch.inputs, labels[batch.index], batch.index), what)


def mixed_labels_are_taken(bench: Bench) -> None:
    batch = data()
    rows = torch.eye(CLASSES)[batch.labels]
    rows = 0.7 * rows + 0.3 * rows.flip(0)
    rows[0] = 0  # a sample without a label
    _check_terms(bench.rig(), Data(batch.inputs, rows, batch.index), "mixed labels, (B, K)")


def _check_terms(rig: Rig, batch: Data, what: str, after_training: bool = True) -> None:
    """Check the terms and gradients of every stage, at its start and after a step."""
    for stage in rig.stages:
        with _at(f"{what}, stage {stage.name}"):
            rig.enter(stage)
            _check_loss(rig, batch)
            if after_training:
                rig.train(batch, lr=1e-3)
                with _at("after a step"):
                    _check_loss(rig, batch)
            taken = set(stage.loss(rig.run(batch)[1])) & {TASK, "total"}
            require(not taken, f"a term is called {_some(taken)}, a name of the engine's own")


def _check_loss(rig: Rig, batch: Data) -> None:
    terms = rig.terms(batch)
    loss = total(terms)
    for name, term in terms.items():
        require(term.dtype in (torch.float32, torch.float64), f"term {name} is {term.dtype}, not at least fp32")
        require(bool(term.isfinite()), f"term {name} is {term.item()}")
    if loss.requires_grad:  # without labels a stage may have nothing to learn from
        loss.backward()
    odd = [name for name, gradient in rig.gradients().items() if not gradient.isfinite().all()]
    require(not odd, f"the gradient of {_some(odd)} is not finite")


# --- who trains -------------------------------------------------------------------------------------------------


def teachers_stay_untouched(bench: Bench) -> None:
    for kind in (CNN, VIT):
        rig = bench.rig(kind, kind)
        for teacher in rig.teachers:
            teacher.requires_grad_(True)  # so that a gradient would show
        before = [_copies(teacher.state_dict()) for teacher in rig.teachers]
        for stage in rig.stages:
            rig.enter(stage)
            outs = rig.teach(data())
            given = [_flat(out) for out in outs]
            kept = [[tensor.clone() for tensor in tensors] for tensors in given]
            terms, seen = rig.run(data(), outs)
            total(terms).backward()
            with torch.no_grad():
                rig.method.after_step(seen)
            where = f"{kind}, stage {stage.name}"
            for tensors, copies in zip(given, kept, strict=True):
                same = all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))
                require(same, f"{where}: the method changed a teacher's output in place; it may be replayed again")
            for teacher, state in zip(rig.teachers, before, strict=True):
                moved = _changed(state, teacher.state_dict())
                with_gradient = [name for name, p in teacher.named_parameters() if p.grad is not None]
                require(not moved, f"{where}: the frozen teacher's {_some(moved)} changed")
                require(not with_gradient, f"{where}: the frozen teacher's {_some(with_gradient)} got a gradient")


def stages_train_what_they_say(bench: Bench) -> None:
    rig = bench.rig()
    ever: set[str] = set()
    for stage in rig.stages:
        rig.enter(stage)
        before = _copies(rig.step.state_dict())
        terms, _ = rig.run(data())
        total(terms).backward()
        rig_gradients = rig.gradients()
        should = {name for name, gradient in rig_gradients.items() if gradient.any()}
        rig.train(data())
        moved = set(_changed(before, rig.step.state_dict()))
        parameters = {name for name, _ in rig.step.named_parameters()}
        where = f"stage {stage.name}"
        still, stray = should - moved, (moved & parameters) - should
        require(not still, f"{where}: {_some(still)} got a gradient and did not move")
        require(not stray, f"{where}: {_some(stray)} moved without a gradient; only the optimizer moves parameters")
        if "student" in stage.trains:
            gone = f"{where} says that it trains the student, but none of its parameters gets a gradient"
            require(any(name.startswith("student.") for name in moved & parameters), gone)
        else:
            touched = [name for name in moved if name.startswith("student.")]
            require(not touched, f"{where} does not train the student, but {_some(touched)} changed")
        ever |= moved & parameters
    idle = {name for name, _ in rig.step.named_parameters() if not name.startswith("student.")} - ever
    # Peers may have parts that nothing reads, such as a classifier under a feature loss; the method's own are its own.
    idle_method = [name for name in idle if name.startswith("method.")]
    require(not idle_method, f"no stage trains {_some(idle_method)}: a constant belongs in register_buffer")
    for number in range(len(rig.step.peers)):
        learns = any(name.startswith(f"peers.{number}.") for name in ever)
        require(learns, f"peer {number} trains in no stage; online methods give their peers a loss of their own")


# --- state ------------------------------------------------------------------------------------------------------


def state_round_trips(bench: Bench) -> None:
    ours = bench.rig()
    for number, stage in enumerate(ours.stages):
        ours.enter(stage)
        for step in (1, 2):
            ours.train(data(step), lr=0.01)
        theirs = bench.rig(seed=1)
        theirs.step.load_state_dict(_stored(ours.step.state_dict()))
        theirs.enter(theirs.stages[number])
        for step in (3, 4):  # two, since what only Python attributes hold may show late
            _require_equal(
                ours.terms(data(step)),
                theirs.terms(data(step)),
                f"stage {stage.name}: a fresh instance with the saved state gives another loss; "
                "keep all state in parameters and buffers",
            )
            for rig in (ours, theirs):
                rig.train(data(step), lr=0.01)


def replayed_equals_live(bench: Bench) -> None:
    for kind in (CNN, VIT):
        rig = bench.rig(CNN, kind)
        for stage in rig.stages:
            rig.enter(stage)
            stored = [Out(_replayed(out.logits), _replayed(out.taps)) for out in rig.teach(data())]
            live = rig.terms(data())
            replayed, _ = rig.run(data(), stored)
            _require_equal(
                live,
                replayed,
                f"{kind} teacher, stage {stage.name}: stored outputs of the teacher give another loss than live ones",
            )


def _stored(state: Any) -> Any:
    """Return what comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _replayed(outputs: Any) -> Any:
    """Return tensors as a store gives them: equal values, rows of a larger table."""

    def rows(tensor: Tensor) -> Tensor:
        kept: Tensor = _stored(torch.cat([torch.zeros_like(tensor), tensor.detach()]))
        return kept[len(tensor) :]

    if isinstance(outputs, dict):
        return {role: _replayed(tap) for role, tap in outputs.items()}
    return [rows(tensor) for tensor in outputs] if isinstance(outputs, list) else rows(outputs)


def _require_equal(one: dict[str, Tensor], other: dict[str, Tensor], message: str) -> None:
    require(one.keys() == other.keys(), f"{message} (terms {_some(one)} and {_some(other)})")
    for name, term in one.items():
        require(torch.equal(term, other[name]), f"{message} (term {name}: {term.item():.9g}, {other[name].item():.9g})")


# --- compiled, and in several processes -------------------------------------------------------------------------


def compiled_equals_eager(bench: Bench, backend: str, pairs: list[tuple[str, str]], tolerance: float) -> None:
    for student, teacher in pairs:
        # In fp64: fused kernels round differently, and batch norm over a few samples magnifies that in fp32.
        rig = bench.rig(student, teacher, precision="fp64")
        for stage in rig.stages:
            rig.enter(stage)
            torch._dynamo.reset()
            try:
                compiled = torch.compile(rig.step, backend=backend)
                outcomes = []
                for step in (None, compiled):
                    terms, _ = rig.run(data(), step=step)
                    total(terms).backward()
                    outcomes.append({**{n: t.detach() for n, t in terms.items()}, **rig.gradients()})
            finally:
                torch._dynamo.reset()
            require(
                outcomes[0].keys() == outcomes[1].keys(),
                f"stage {stage.name}: compiled, other terms or gradients appear "
                f"({_some(outcomes[0].keys() ^ outcomes[1].keys())})",
            )
            scale = max(float(tensor.norm()) for tensor in outcomes[0].values())
            for name, eager in outcomes[0].items():
                apart = float((eager - outcomes[1][name]).norm())
                size = max(float(eager.norm()), 1e-3 * scale)
                where = f"{student} student, {teacher} teacher, stage {stage.name}"
                require(
                    apart <= tolerance * size, f"{where}: compiled, {name} differs by {apart / size:.1e} of its size"
                )


def two_processes_equal_one(bench: Bench, pairs: list[tuple[str, str]]) -> None:
    from kdtool.testing.processes import compare

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


TOLERANCE, ROUNDING = 1e-6, 1e-4


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Put the place before the message of what goes wrong inside."""
    try:
        yield
    except CheckError as error:
        raise CheckError(f"{where}: {error}") from error
    except Exception as error:
        raise CheckError(f"{where}: {type(error).__name__}: {error}") from error


def _flat(out: Out) -> list[Tensor]:
    return [out.logits, *(t for tap in out.taps.values() for t in (tap if isinstance(tap, list) else [tap]))]


def _copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]


def _some(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


# --- which checks concern whom ----------------------------------------------------------------------------------


def _no_frozen_teacher(cls: type[Method]) -> str | None:
    kind = cls.scheme()
    return None if kind == "offline" else f"a method of the kind {kind!r} has no frozen teacher"


def _no_teacher(cls: type[Method]) -> str | None:
    return "it has no teacher" if cls.teachers[1] == 0 else None


def _one_teacher(cls: type[Method]) -> str | None:
    most = cls.teachers[1]
    return f"it takes {most} teacher(s)" if most is not None and most < 2 else None


def _one_class_a_sample(cls: type[Method]) -> str | None:
    return "it declares hard_labels, so mixing is refused" if cls.hard_labels else None


def _one_process(cls: type[Method]) -> str | None:
    if not dist.is_available() or not dist.is_gloo_available():
        return "this torch has no gloo"
    try:
        pickle.dumps(cls)
    except Exception:
        return "another process cannot import the class: define it at the top of a module"
    return None


CHECKS: tuple[Check, ...] = (
    Check("contract", "the class fits the contract", fits_the_contract),
    Check("options", "every option has help", options_are_documented),
    Check("defaults", "the defaults are valid and construct", defaults_construct),
    Check("taps", "taps resolve on CNN and ViT", taps_resolve),
    Check("fp32", "terms and gradients are finite in fp32", lambda bench: terms_are_finite(bench, "fp32")),
    Check("bf16", "terms and gradients are finite under bf16 autocast", lambda bench: terms_are_finite(bench, "bf16")),
    Check("fp64", "fp64 stays fp64", double_precision_stays),
    Check("several-teachers", "two teachers at once work", several_teachers_are_taken, unless=_one_teacher),
    Check("equal-networks", "a student equal to its teacher works", equal_networks_are_taken, unless=_no_teacher),
    Check("missing-labels", "samples without a label work", missing_labels_are_taken),
    Check("mixed-labels", "mixed labels (B, K) work", mixed_labels_are_taken, unless=_one_class_a_sample),
    Check("frozen-teacher", "the frozen teacher is untouched", teachers_stay_untouched, unless=_no_frozen_teacher),
    Check("training", "each stage trains what it says", stages_train_what_they_say),
    Check("state", "saved state restores the loss", state_round_trips),
    Check("replay", "stored teacher outputs equal live ones", replayed_equals_live, unless=_no_frozen_teacher),
    Check(
        "compiled",
        "compiled (aot_eager) equals eager",
        lambda bench: compiled_equals_eager(bench, "aot_eager", [(CNN, CNN)], 1e-9),
    ),
    Check(
        "processes",
        "two processes equal one",
        lambda bench: two_processes_equal_one(bench, [(CNN, CNN)]),
        unless=_one_process,
    ),
    Check(
        "compiled-pairs",
        "compiled (inductor) equals eager on all pairs",
        lambda bench: compiled_equals_eager(bench, "inductor", bench.pairs, 1e-6),
        slow=True,
    ),
    Check(
        "processes-pairs",
        "two processes equal one on all pairs",
        lambda bench: two_processes_equal_one(bench, bench.pairs),
        slow=True,
        unless=_one_process,
    ),
)
"""Every check, quick ones first."""
