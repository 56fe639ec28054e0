"""The checks of who trains, and of what is kept: weights, state, a teacher's outputs."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from kdtool.method import Out
from kdtool.testing.bench import Bench, total
from kdtool.testing.faults import require, some

LR = 0.1

# --- who trains -------------------------------------------------------------------------------------------------


def teachers_stay_untouched(bench: Bench) -> None:
    for kind in [ours for ours, theirs in bench.pairs if ours == theirs]:
        rig = bench.rig(kind, kind)
        for teacher in rig.teachers:
            teacher.requires_grad_(True)  # so that a gradient would show
        before = [_copies(teacher.state_dict()) for teacher in rig.teachers]
        for stage in rig.stages:
            rig.enter(stage)
            outs = rig.teach(rig.batches[0])
            given = [_flat(out) for out in outs]
            kept = [[tensor.clone() for tensor in tensors] for tensors in given]
            terms, seen = rig.run(rig.batches[0], outs)
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
                require(not moved, f"{where}: the frozen teacher's {some(moved)} changed")
                require(not with_gradient, f"{where}: the frozen teacher's {some(with_gradient)} got a gradient")


def stages_train_what_they_say(bench: Bench) -> None:
    rig = bench.rig()
    ever: set[str] = set()
    for stage in rig.stages:
        rig.enter(stage)
        before = _copies(rig.step.state_dict())
        terms, _ = rig.run(rig.batches[0])
        total(terms).backward()
        gradients = rig.gradients()
        # Those that a step moves at all: a gradient may be too small for fp32 to notice.
        should = {n for n, gradient in gradients.items() if not torch.equal(before[n] - LR * gradient, before[n])}
        rig.train(rig.batches[0], LR)
        moved = set(_changed(before, rig.step.state_dict()))
        parameters = {name for name, _ in rig.step.named_parameters()}
        where = f"stage {stage.name}"
        still, stray = should - moved, (moved & parameters) - should
        require(not still, f"{where}: {some(still)} got a gradient and did not move")
        require(not stray, f"{where}: {some(stray)} moved without a gradient; only the optimizer moves parameters")
        if "student" in stage.trains:
            gone = f"{where} says that it trains the student, but none of its parameters gets a gradient"
            require(any(name.startswith("student.") for name in moved & parameters), gone)
        else:
            touched = [name for name in moved if name.startswith("student.")]
            require(not touched, f"{where} does not train the student, but {some(touched)} changed")
        ever |= (moved & parameters) | {name for name, gradient in gradients.items() if gradient.any()}
    idle = {name for name, _ in rig.step.named_parameters() if not name.startswith("student.")} - ever
    # Peers may have parts that nothing reads, such as a classifier under a feature loss; the method's own are its own.
    idle_method = [name for name in idle if name.startswith("method.")]
    require(not idle_method, f"no stage trains {some(idle_method)}: a constant belongs in register_buffer")
    for number in range(len(rig.step.peers)):
        learns = any(name.startswith(f"peers.{number}.") for name in ever)
        require(learns, f"peer {number} trains in no stage; online methods give their peers a loss of their own")


# --- state ------------------------------------------------------------------------------------------------------


def state_round_trips(bench: Bench) -> None:
    ours = bench.rig()
    for number, stage in enumerate(ours.stages):
        ours.enter(stage)
        for step in (1, 2):
            ours.train(ours.batches[step], lr=0.01)
        theirs = bench.rig(seed=1)
        theirs.step.load_state_dict(_stored(ours.step.state_dict()))
        theirs.enter(theirs.stages[number])
        for step in (3, 4):  # two, since what only Python attributes hold may show late
            _require_equal(
                ours.terms(ours.batches[step]),
                theirs.terms(ours.batches[step]),
                f"stage {stage.name}: a fresh instance with the saved state gives another loss; "
                "keep all state in parameters and buffers",
            )
            for rig in (ours, theirs):
                rig.train(ours.batches[step], lr=0.01)


def replayed_equals_live(bench: Bench) -> None:
    for kind in dict.fromkeys(theirs for _, theirs in bench.pairs):
        rig = bench.rig(None, kind)
        for stage in rig.stages:
            rig.enter(stage)
            stored = [_stored_out(out) for out in rig.teach(rig.batches[0])]
            live = rig.terms(rig.batches[0])
            replayed, _ = rig.run(rig.batches[0], stored)
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


def _stored_out(out: Out) -> Out:
    views = {name: _stored_out(each) for name, each in out.views.items()}
    return Out(_replayed(out.logits), _replayed(out.taps), out.mask, views)


def _require_equal(one: dict[str, Tensor], other: dict[str, Tensor], message: str) -> None:
    require(one.keys() == other.keys(), f"{message} (terms {some(one)} and {some(other)})")
    for name, term in one.items():
        require(torch.equal(term, other[name]), f"{message} (term {name}: {term.item():.9g}, {other[name].item():.9g})")


def _flat(out: Out) -> list[Tensor]:
    further = [tensor for each in out.views.values() for tensor in _flat(each)]
    return [out.logits, *(t for tap in out.taps.values() for t in (tap if isinstance(tap, list) else [tap])), *further]


def _copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
