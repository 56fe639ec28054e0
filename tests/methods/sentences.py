"""Sentences of unequal length for the methods' tests: token sequences with their mask, and more padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Out, Setup
from tests.methods.pairs import random

LENGTHS = (4, 1, 3)
CLASSES = 5
Roles = Mapping[str, list[tuple[int, ...]] | tuple[int, ...]]


def alike(literal: Callable[[Tensor], Callable[..., Tensor]], mask_BL: Tensor) -> Callable[..., Tensor]:
    """Return a literal loss in which each sentence counts alike: the mean of what it is for each alone."""

    def loss(*feats: Tensor) -> Tensor:
        alone = [literal(mask_BL[b : b + 1])(*(feat[b : b + 1] for feat in feats)) for b in range(len(mask_BL))]
        return torch.stack(alone).mean()

    return loss


def mask_of(*lengths: int, width: int | None = None) -> Tensor:
    """Return (B, L) bool: True for the first ``length`` tokens of each sentence."""
    return torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]


def real(mask: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (sentence, token) of every real token."""
    yield from ((b, i) for b in range(mask.shape[0]) for i in range(mask.shape[1]) if mask[b, i])


def padded(tensor: Tensor, dims: int, by: int = 3, value: float = 7.0) -> Tensor:
    """Return a tensor with ``by`` more entries of padding at the end of each of ``dims`` dimensions after the batch.

    Sequences (B, L, D) have one such dimension, attention (B, H, L, L) its last two.
    """
    if dims == 2:
        return F.pad(tensor, (0, by, 0, by), value=value)
    return F.pad(tensor, (0, 0, 0, by), value=value)


def wider(mask: Tensor, by: int = 3) -> Tensor:
    return F.pad(mask, (0, by), value=False)


def sentences(student: Roles, *teachers: Roles, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    """Return a float64 batch of sentences; the student's outputs require gradient, and padding is zero.

    Args:
        student, teachers: per role the shape of a tap without the batch, or a list of them; sequences are (L, D) with
            L the longest sentence.
        seed: of all numbers.
        lengths: real tokens of each sentence.
    """
    mask = mask_of(*lengths)

    def tap(shape: tuple[int, ...], number: int) -> Tensor:
        found = random(len(lengths), *shape, seed=number)
        if len(shape) == 2:
            found = torch.where(mask[:, :, None], found.detach(), 0.0).requires_grad_()
        return found

    def out(roles: Roles, first: int) -> Out:
        taps, number = {}, first
        for role, shapes in roles.items():
            listed = shapes if isinstance(shapes, list) else [shapes]
            found = [tap(shape, number + place) for place, shape in enumerate(listed, 1)]
            number += len(found)
            taps[role] = found if isinstance(shapes, list) else found[0]
        return Out(random(len(lengths), CLASSES, seed=first), taps, mask)

    outs = [out(roles, 1000 * seed + 100 * place) for place, roles in enumerate(teachers, 1)]
    for each in outs:
        each.logits = each.logits.detach()
        each.taps = {
            role: [t.detach() for t in tap] if isinstance(tap, list) else tap.detach()
            for role, tap in each.taps.items()
        }
    labels = torch.arange(len(lengths)) % CLASSES
    task_loss = lambda logits: F.cross_entropy(logits, labels)  # noqa: E731
    return Batch(labels, torch.arange(len(lengths)), out(student, 1000 * seed), outs, task_loss)


def setup_of(student: Roles, *teachers: Roles) -> Setup:
    return Setup(student, list(teachers), CLASSES, 100, len(LENGTHS))


def further_padded(batch: Batch) -> Batch:
    """Return the batch as it is beside a longer sentence: every sequence and attention map is padded further."""

    def pad(tap: Tensor) -> Tensor:
        return tap if tap.ndim < 3 else padded(tap, tap.ndim - 2, value=0.0)

    def out(given: Out) -> Out:
        assert given.mask is not None
        taps = {role: [pad(t) for t in tap] if isinstance(tap, list) else pad(tap) for role, tap in given.taps.items()}
        return Out(given.logits, taps, wider(given.mask))

    teachers = [out(each) for each in batch.teachers]
    return Batch(batch.labels, batch.index, out(batch.student), teachers, batch.task_loss)


def assert_padding_does_not_count(method, batch: Batch) -> None:
    """Assert that every stage gives the same terms, and the student's taps the same gradient, in a longer batch."""
    for stage in method.stages():
        terms = stage.loss(batch)
        longer = stage.loss(further_padded(batch))
        assert terms.keys() == longer.keys()
        for name, term in terms.items():
            torch.testing.assert_close(longer[name], term, rtol=1e-12, atol=1e-12)
        leaves = [batch.student.logits]
        for tap in batch.student.taps.values():
            leaves += tap if isinstance(tap, list) else [tap]
        for total in (sum(terms.values()), sum(longer.values())):
            found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
            for leaf, grad in zip(leaves, found, strict=True):
                if grad is not None and leaf.ndim == 3:
                    assert not grad[~batch.student.mask].any()


def reached(method, batch: Batch, loss) -> set[str]:
    """Return what a stage's loss gives a gradient: the method's parameters, "logits", and the student's taps."""
    leaves = {"logits": batch.student.logits, **dict(method.named_parameters())}
    for role, tap in batch.student.taps.items():
        leaves |= {f"{role}.{i}": t for i, t in enumerate(tap)} if isinstance(tap, list) else {role: tap}
    found = torch.autograd.grad(sum(loss(batch).values()), list(leaves.values()), allow_unused=True)
    return {name for name, grad in zip(leaves, found, strict=True) if grad is not None and grad.abs().sum() > 0}
