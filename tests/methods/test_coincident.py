"""Samples that a network gives one output, or nearly one: losses that relate samples stay what they are for equal ones.

Nearly means apart by what an activation leaves that has all but died (SiLU of -50 is -1e-20), or by rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdtool import Out, registry
from kdtool.engine import tree
from kdtool.engine.step import map_out
from kdtool.losses import widened
from kdtool.testing.bench import Rig, total
from kdtool_methods.rkd import angle_loss, distance_loss
from tests.methods.pairs import random
from tests.methods.test_devices import KINDS, rig_of
from tests.sampling import every

RELATED = sorted(
    entry.name
    for entry in registry.entries()
    if (method := registry.get(entry.name)).batch == "global" or method.knowledge == "relation"
)
APART = [1e-7, 1e-20, 1e-38]
HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def nearly_equal(apart: float, precision: str) -> Callable[[Tensor], Tensor]:
    """Return what gives outputs (B, ...) of which two samples differ in one entry, rounded as a network's are."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.detach().clone()
        changed[2] = changed[1]
        changed[1].view(-1)[0] = 0.0
        changed[2].view(-1)[0] = apart
        half = HALF[precision]
        return changed if half is None else changed.to(half).float()

    return change


def leaves(out: Out) -> list[Tensor]:
    """Return an output's tensors, from now on with gradients."""
    taps = [tap for tap in out.taps.values() for tap in (tap if isinstance(tap, list) else [tap])]
    found = [out.logits, *taps, *(tensor for view in out.views.values() for tensor in leaves(view))]
    return [tensor.requires_grad_() for tensor in found if tensor.is_floating_point()]


def terms_of(rig: Rig, apart: float, precision: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return a loss's terms and its gradients by the student's outputs, where two samples nearly agree."""
    batch, change = rig.batches[1], nearly_equal(apart, precision)
    torch.manual_seed(0)
    student, peers = rig.step.networks(tree.cast(batch.inputs, torch.float32))
    student = map_out(student, change)
    own = leaves(student)
    teachers = [map_out(out, change) for out in peers or rig.teach(batch)]
    torch.manual_seed(0)
    terms, _ = rig.step.losses(student, teachers, batch.labels, batch.index, 0, 0.25)
    gradients = torch.autograd.grad(total(terms), own, allow_unused=True)
    return {name: term.detach() for name, term in terms.items()}, [each for each in gradients if each is not None]


@pytest.mark.parametrize(
    ("name", "precision"), every(9, ((name, precision) for name in RELATED for precision in HALF), first=4)
)
def test_nearly_equal_samples_cost_what_equal_ones_do(name: str, precision: str) -> None:
    cases = ((task, kind) for task, kinds in KINDS.items() for kind in kinds)
    rig = next(rig for task, kind in cases if (rig := rig_of(name, kind, task, "fp32")) is not None)
    stage = rig.stages[-1]
    rig.enter(stage)
    want, equal = terms_of(rig, 0.0, precision)
    most = max(float(each.abs().max()) for each in equal)
    for apart in APART:
        got, gradients = terms_of(rig, apart, precision)
        for term, value in got.items():
            assert value.isfinite(), (term, apart)
            assert abs(float(value - want[term])) <= 0.5 * (1 + abs(float(want[term]))), (term, apart)
        assert all(each.isfinite().all() for each in gradients), apart
        assert max(float(each.abs().max()) for each in gradients) <= 1e3 * (1 + most), apart


@pytest.mark.parametrize("loss", [angle_loss, distance_loss])
@pytest.mark.parametrize("apart", [1e-30, 1e-12, 1e-7, 1e-5])
def test_directions_between_near_neighbours_are_right_or_none(loss: Callable[..., Tensor], apart: float) -> None:
    """Beside the same in float64 with the neighbours as they are, or as one."""
    student, teacher = random(8, 16).detach().float(), random(8, 16, seed=1).detach().float()
    student[3] = student[1]
    student[1, 0], student[3, 0] = 0.0, apart
    exact = student.double()
    if apart < 1e-6:
        exact[3] = exact[1]
    exact.requires_grad_()
    student.requires_grad_()
    got, want = loss(student, teacher), loss(exact, widened(teacher))
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    (own,), (right,) = torch.autograd.grad(got, student), torch.autograd.grad(want, exact)
    torch.testing.assert_close(own.double(), right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))
