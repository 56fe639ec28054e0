"""MLKD against a literal float64 reading of Jin et al. (2023), section 3."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kdtool.errors import InputError
from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods.mlkd import MLKD, batch_loss, class_loss, confidence_masks, view_parts
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

T = 2.5


def softmax(logits, temperature):
    rows = [[(z / temperature).exp() for z in row] for row in logits]
    return [[power / sum(row) for power in row] for row in rows]


def gap(p, q):
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p))]
    return sum((dot(p[i], p[j]) - dot(q[i], q[j])) ** 2 for i, j in pairs)


def literal_batch(student, teacher):
    return gap(softmax(student, T), softmax(teacher, T)) / len(student)


def literal_class(student, teacher):
    p, q = (list(zip(*softmax(each, T), strict=True)) for each in (student, teacher))
    return gap(p, q) / student.shape[1]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_both_are_the_paper_s_equations(size):
    student, teacher = random(size, 3), random(size, 3, seed=1)
    assert_agrees(lambda s, t: batch_loss(s, t, T), literal_batch, student, teacher)
    assert_agrees(lambda s, t: class_loss(s, t, T), literal_class, student, teacher)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [batch_loss, class_loss])
def test_limits(dtype, loss):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, student.detach().flip(0)[:, [1, 1, 0]], 4.0)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert torch.autograd.grad(value, student)[0].isfinite().all()
    assert loss(student, student, 4.0).item() == 0


def test_the_parts_are_sums_over_temperatures():
    student, teacher = random(4, 3), random(4, 3, seed=1)
    instance, rows, columns = view_parts(student, [teacher], [2.0, 6.0])
    for got, loss in ((instance, softened_kl), (rows, batch_loss), (columns, class_loss)):
        torch.testing.assert_close(got, loss(student, teacher, 2.0) + loss(student, teacher, 6.0))


def test_the_masks():
    student, teacher = random(4, 3), random(4, 3, seed=1)
    mask_B, mask_K = confidence_masks(teacher)
    assert (mask_B.sum().item(), mask_K.sum().item()) == (2, 2)
    p = teacher.softmax(1)
    assert p.amax(1)[mask_B].max() < p.amax(1)[~mask_B].min()
    assert p.sum(0)[mask_K].max() < p.sum(0)[~mask_K].min()
    plain = view_parts(student, [teacher], [T])
    for got, whole, share in zip(
        view_parts(student, [teacher], [T], "code"), plain, (1 / 2, 1 / 2, 2 / 3), strict=True
    ):
        torch.testing.assert_close(got, share * whole)
    instance, rows, columns = view_parts(student, [teacher], [T], "entries")
    s, t = student[mask_B], teacher[mask_B]
    torch.testing.assert_close(instance, softened_kl(s, t, T) / 2)
    torch.testing.assert_close(rows, batch_loss(s, t, T) / 2)
    ps, pt = ((each / T).softmax(1)[:, mask_K] for each in (student, teacher))
    torch.testing.assert_close(columns, (ps.T @ ps - pt.T @ pt).square().sum() / 3)
    with pytest.raises(ValueError, match="masks"):
        view_parts(student, [teacher], [T], "some")


@pytest.mark.parametrize("masks", ["none", "code", "entries"])
def test_a_batch_of_one_is_taken(masks):
    student = random(1, 3)
    total = sum(view_parts(student, [random(1, 3, seed=1)], [T], masks))
    assert torch.autograd.grad(total, student)[0].isfinite().all()


def test_the_method_weighs_its_levels():
    setup = setup_of([], [[], []])
    method, batch = MLKD(MLKD.Config(temperatures=[T], batch=2.0, classes=3.0, strong=False), setup), batch_of(setup)
    batch.labels = torch.full((4,), -1)
    (stage,) = method.stages()
    assert stage.task_weight == 0.1
    terms = stage.loss(batch)
    assert list(terms) == ["instance", "batch", "classes"]
    student, teacher = batch.student.logits, ensemble_logits([out.logits for out in batch.teachers], temperature=T)
    torch.testing.assert_close(terms["instance"], 0.9 * softened_kl(student, teacher, T))
    torch.testing.assert_close(terms["batch"], 2 * literal_batch(student, teacher))
    torch.testing.assert_close(terms["classes"], 3 * literal_class(student, teacher))
    assert gradients(method, batch, stage.loss) == {"logits"}
    with pytest.raises(InputError, match=r"mlkd\.temperatures"):
        MLKD(MLKD.Config(temperatures=[]), setup).loss(batch)


def test_the_losses_of_a_strong_view_join_those_of_the_usual_one():
    setup = setup_of([], [[]])
    batch, other = batch_of(setup), batch_of(setup, seed=1)
    alone = MLKD(MLKD.Config(strong=False), setup)
    want = [alone.loss(each) for each in (batch, other)]
    assert MLKD.views(MLKD.Config()) == ("strong",)
    assert MLKD.views(MLKD.Config(strong=False)) == ()
    both = dataclasses.replace(
        batch,
        student=dataclasses.replace(batch.student, views={"strong": other.student}),
        teachers=[dataclasses.replace(batch.teachers[0], views={"strong": other.teachers[0]})],
    )
    terms = MLKD(MLKD.Config(), setup).loss(both)
    for name in want[0]:
        torch.testing.assert_close(terms[name], want[0][name] + want[1][name])
    torch.testing.assert_close(terms["labels"], 0.1 * batch.task_loss(other.student.logits))
