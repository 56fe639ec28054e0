"""Tiny inputs for the methods' tests, and the comparison of a loss with its literal reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Out, Setup
from kdtool.method import Shape


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal float64 numbers that require gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def assert_agrees(fast: Callable[..., Tensor], literal: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Assert that both give the same value and the same gradient of every input, to 1e-9."""
    got, want = fast(*inputs), literal(*inputs)
    assert got.dtype == torch.float64
    assert got.shape == ()
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    for got_grad, want_grad in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(got_grad, want_grad, rtol=1e-9, atol=1e-9)


def setup_of(student: Sequence[Shape], teachers: Sequence[Sequence[Shape]], num_classes: int = 5) -> Setup:
    """Return the Setup of a method that taps the role "stages" on both sides."""
    return Setup({"stages": list(student)}, [{"stages": list(shapes)} for shapes in teachers], num_classes, 100, 4)


def batch_of(setup: Setup, size: int = 4, seed: int = 0, labels: Tensor | None = None, progress: float = 0.5) -> Batch:
    """Return a float64 batch for ``setup``; the student's outputs require gradient."""
    if labels is None:
        labels = torch.arange(size) % setup.num_classes

    def out(shapes: Sequence[Shape], seed: int) -> Out:
        taps = [random(size, *shape, seed=seed + i) for i, shape in enumerate(shapes, 1)]
        return Out(random(size, setup.num_classes, seed=seed), {"stages": taps} if taps else {})

    student = out(setup.student.get("stages", ()), 100 * seed)
    teachers = [out(shapes.get("stages", ()), 100 * seed + 10 * i) for i, shapes in enumerate(setup.teachers, 1)]
    for teacher in teachers:
        teacher.logits = teacher.logits.detach()
        teacher.taps = {role: [tap.detach() for tap in taps] for role, taps in teacher.taps.items()}
    task_loss = lambda logits: F.cross_entropy(logits, labels, ignore_index=-1)  # noqa: E731
    return Batch(labels, torch.arange(size), student, teachers, task_loss, epoch=0, progress=progress)


def gradients(method: Method, batch: Batch, loss: Callable[[Batch], dict[str, Tensor]]) -> set[str]:
    """Return what a stage's loss gives a gradient: the method's parameters, "logits", and "stages" by number."""
    leaves = {"logits": batch.student.logits, **dict(method.named_parameters())}
    leaves |= {f"stages.{i}": tap for i, tap in enumerate(batch.student.taps.get("stages", []))}
    total = sum(loss(batch).values())
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {name for name, grad in zip(leaves, found, strict=True) if grad is not None and grad.abs().sum() > 0}
