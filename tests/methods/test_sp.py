from __future__ import annotations

import math

import pytest
import torch

from kdtool.errors import InputError
from kdtool_methods.sp import SP, similarity_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def literal(student, teacher):
    size = len(student)

    def rows(feat):
        flat = [sample.reshape(-1) for sample in feat]
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in flat] for x in flat]
        return [[value / sum(v**2 for v in row) ** 0.5 for value in row] for row in gram]

    s, t = rows(student), rows(teacher)
    return sum((s[i][j] - t[i][j]) ** 2 for i in range(size) for j in range(size)) / size**2


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((4, 2, 2, 3), (4, 3, 3, 2)), ((2, 5), (2, 3)), ((3, 4, 2), (3, 6))],
    ids=["maps", "batch of two", "tokens and vectors"],
)
def test_it_is_the_paper_s_equation(student, teacher):
    assert_agrees(similarity_loss, literal, random(*student), random(*teacher, seed=1))


def test_equal_relations_cost_nothing():
    feat = random(4, 3, 2, 2)
    assert similarity_loss(feat, feat).item() == 0
    rotation = torch.linalg.qr(random(12, 12, seed=2).detach())[0]
    assert similarity_loss(feat.flatten(1) @ rotation * 7, feat).item() < 1e-24


def test_constant_features_and_silent_samples_stay_finite():
    for student in (torch.ones(4, 3), torch.zeros(4, 3), random(4, 3).detach().index_fill(0, torch.tensor([1]), 0.0)):
        student = student.float().requires_grad_()
        loss = similarity_loss(student, random(4, 6, seed=1).float())
        (grad,) = torch.autograd.grad(loss, student)
        assert math.isfinite(loss.item())
        assert grad.isfinite().all()
        assert grad.abs().max() < 100


def test_half_precision_and_autocast_compute_in_fp32():
    student, teacher = random(8, 16).detach(), random(8, 32, seed=1).detach()
    want = similarity_loss(student.bfloat16().double(), teacher.bfloat16().double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = similarity_loss(student.bfloat16(), teacher.bfloat16())
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_unequal_batches_are_refused():
    with pytest.raises(ValueError, match="student 3, teacher 4"):
        similarity_loss(random(3, 2), random(4, 2))


def test_the_method_sums_layers_and_teachers():
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(6, 2, 2), (7,)]])
    method, batch = SP(SP.Config(weight=10.0), setup), batch_of(setup)
    terms = method.loss(batch)
    stages = batch.student.taps["stages"]
    want = 10 * sum(similarity_loss(stages[i], teacher.taps["stages"][i]) for teacher in batch.teachers for i in (0, 1))
    assert list(terms) == ["similarity"]
    torch.testing.assert_close(terms["similarity"], want)
    assert gradients(method, batch, method.loss) == {"stages.0", "stages.1"}


def test_layers_are_depths_or_names():
    assert SP.taps(SP.Config()).student == {"stages": [1.0]} == SP.taps(SP.Config()).teacher
    named = SP.taps(SP.Config(student_layers=["features.6"]))
    assert (named.student, named.teacher) == ({"stages": ["features.6"]}, {"stages": [1.0]})
    with pytest.raises(InputError, match=r"sp\.student_layers and sp\.teacher_layers"):
        SP.taps(SP.Config(layers=[0.5, 1.0], teacher_layers=["layer4"]))
