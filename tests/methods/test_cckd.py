from __future__ import annotations

import math

import pytest
import torch

from kdtool import Batch, Out, Setup
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods.cckd import CCKD, correlation_loss, neighbour_loss
from tests.methods.pairs import assert_agrees, random

KERNELS = ["rbf", "bilinear", "mmd"]


def literal(gamma, order, kernel):
    def correlation(x, y):
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        if kernel == "bilinear":
            return dot
        if kernel == "mmd":
            return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        return sum(
            math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * (dot**p if p else 1) for p in range(order + 1)
        )

    def loss(student, teacher):
        size, total = len(student), 0.0
        rows = [[x / (x**2).sum().sqrt() for x in side] for side in (student, teacher)]
        for i in range(size):
            for j in range(size):
                total = total + (correlation(*(side[n] for side in rows[:1] for n in (i, j)))
                                 - correlation(*(side[n] for side in rows[1:] for n in (i, j)))) ** 2  # fmt: skip
        return total / size**2

    return loss


@pytest.mark.parametrize(
    ("gamma", "order", "kernel"), [(0.4, 2, "rbf"), (1.3, 5, "rbf"), (0.4, 1, "rbf"), (0, 1, "bilinear"), (0, 1, "mmd")]
)
@pytest.mark.parametrize("size", [2, 4])
def test_it_is_the_equation(gamma, order, kernel, size):
    fast = lambda s, t: correlation_loss(s, t, gamma, order, kernel)  # noqa: E731
    assert_agrees(fast, literal(gamma, order, kernel), random(size, 3), random(size, 6, seed=1))


def test_the_taylor_series_tends_to_the_gaussian():
    student, teacher = random(5, 3).detach(), random(5, 4, seed=1).detach()
    kernels = [(-0.7 * torch.cdist(*2 * [x / x.norm(dim=1, keepdim=True)]) ** 2).exp() for x in (student, teacher)]
    want = (kernels[0] - kernels[1]).square().mean()
    assert correlation_loss(student, teacher, gamma=0.7, order=20).item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_relations_cost_nothing(kernel):
    feat = random(6, 4)
    loss = correlation_loss(feat, feat.detach(), kernel=kernel)
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, feat)[0] == 0).all()
    rotation = torch.linalg.qr(random(4, 4, seed=2).detach())[0]
    assert correlation_loss(3 * feat @ rotation, feat, kernel=kernel).item() < 1e-24


@pytest.mark.parametrize("kernel", KERNELS)
def test_limits_stay_finite(kernel):
    for student in (torch.zeros(4, 3), torch.ones(4, 3), 1e8 * torch.ones(4, 3), random(4, 3).float().detach()):
        student[0] = 0
        student.requires_grad_()
        loss = correlation_loss(student, random(4, 5, seed=1).float(), kernel=kernel)
        (grad,) = torch.autograd.grad(loss, student)
        assert math.isfinite(loss.item())
        assert grad.isfinite().all()
        assert grad.abs().max() < 100


def test_half_precision_and_autocast_compute_in_fp32():
    student, teacher = random(8, 16).detach().bfloat16(), random(8, 32, seed=1).detach().bfloat16()
    for kernel in KERNELS:
        want = correlation_loss(student.double(), teacher.double(), kernel=kernel)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = correlation_loss(student, teacher, kernel=kernel)
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="rbf, bilinear, mmd"):
        correlation_loss(random(3, 2), random(3, 2), kernel="linear")
    with pytest.raises(ValueError, match="batches differ"):
        correlation_loss(random(3, 2), random(4, 2))


def build(teachers=1, **options):
    setup = Setup({"embedding": (4,)}, [{"embedding": (3 + n,)} for n in range(teachers)], 5, 100, 6)
    outs = [
        Out(random(6, 5, seed=n).detach(), {"embedding": random(6, 3 + n, seed=n).detach()}) for n in range(teachers)
    ]
    student = Out(random(6, 5, seed=8), {"embedding": random(6, 4, seed=9)})
    batch = Batch(torch.zeros(6, dtype=torch.int64), torch.arange(6), student, outs, lambda logits: logits.sum())
    return CCKD(CCKD.Config(**options), setup).double(), batch


def test_the_method_weighs_its_terms_and_sums_over_teachers():
    method, batch = build(teachers=2, weight=7.0, soft_weight=0.8, temperature=3.0, gamma=0.5, order=3)
    student = batch.student.taps["embedding"]
    terms = method.loss(batch)
    assert list(terms) == ["kl", "correlation"]
    teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=3.0)
    torch.testing.assert_close(terms["kl"], 0.8 * softened_kl(batch.student.logits, teacher, 3.0))
    want = sum(correlation_loss(student, out.taps["embedding"], 0.5, 3) for out in batch.teachers)
    torch.testing.assert_close(terms["correlation"], 7 * want)
    (stage,) = method.stages()
    assert stage.task_weight == pytest.approx(0.2)
    assert not list(method.parameters())


def test_an_embedding_stands_on_the_student_s_side_only():
    method, batch = build(embedding=2, kernel="bilinear")
    assert {name: tuple(p.shape) for name, p in method.named_parameters()} == {
        "embed.0.weight": (2, 4),
        "embed.0.bias": (2,),
    }
    terms = method.loss(batch)
    embedded = method.embed[0](batch.student.taps["embedding"])
    want = 100 * correlation_loss(embedded, batch.teachers[0].taps["embedding"], kernel="bilinear")
    torch.testing.assert_close(terms["correlation"], want)
    grads = torch.autograd.grad(terms["correlation"], [*method.parameters(), batch.student.taps["embedding"]])
    assert all(grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("size", [2, 4])
def test_neighbours_are_products_of_their_distances(size):
    def literal_neighbours(student, teacher):
        total = 0.0
        for i in range(size - 1):
            for d in range(3):
                total = total + (student[i, d] - teacher[i, d]).abs() * (student[i + 1, d] - teacher[i + 1, d]).abs()
        return total / (size - 1)

    assert_agrees(neighbour_loss, literal_neighbours, random(size, 3), random(size, 3, seed=1))


def test_neighbours_at_their_limits():
    feat = random(4, 3)
    assert neighbour_loss(feat, feat.detach()).item() == 0
    assert neighbour_loss(feat[:1], random(1, 3, seed=1)).item() == 0
    assert neighbour_loss(feat.bfloat16(), -feat.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="shapes differ"):
        neighbour_loss(random(3, 2), random(3, 4))


def test_the_form_of_the_tables_of_cifar():
    method, batch = build(teachers=2, form="neighbours", weight=0.02, embedding=2, embed_teacher=True, soft_weight=0.0)
    (stage,) = method.stages()
    assert stage.task_weight == 1
    terms = method.loss(batch)
    ours = method.embed[0](batch.student.taps["embedding"])
    pairs = zip(method.embed_teacher, batch.teachers, strict=True)
    want = sum(neighbour_loss(ours, embed(out.taps["embedding"])) for embed, out in pairs)
    torch.testing.assert_close(terms["correlation"], 0.02 * want)
    assert terms["kl"].item() == 0
    assert build(hard_weight=0.0)[0].stages()[0].task_weight == 0
    with pytest.raises(InputError, match=r"student and teacher have 4 and 3 entries: give cckd.embedding=128"):
        build(form="neighbours")
    with pytest.raises(InputError, match="needs a width"):
        build(embed_teacher=True)
