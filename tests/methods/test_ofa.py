"""OFA against a literal float64 reading of Hao et al. (2023), section 3."""

from __future__ import annotations

import pytest
import torch

from kdtool import Setup
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits
from kdtool_methods.ofa import OFA, Exit, ofa_loss
from tests.methods.pairs import assert_agrees, batch_of, random, setup_of

EPS, T = 1.4, 2.5


def softmax(row):
    powers = [(z / T).exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(labels):
    def loss(student, teacher):
        total = 0.0
        for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
            for k, (a, b) in enumerate(zip(softmax(t), softmax(s), strict=True)):
                hit = float(k == label)
                total = total - ((a + hit) ** EPS - hit) * b.log()
        return total / len(student)

    return loss


@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1], [-1, 4, 0, -1]])
def test_it_is_the_paper_s_equation(labels):
    labels = torch.tensor(labels)
    student, teacher = random(len(labels), 5), random(len(labels), 5, seed=1)
    assert_agrees(lambda s, t: ofa_loss(s, t, labels, EPS, T), literal(labels), student, teacher)


def test_without_enhancement_it_is_the_cross_entropy_of_soft_labels():
    student, teacher, labels = random(3, 4), random(3, 4, seed=1), torch.tensor([0, 1, -1])
    want = torch.nn.functional.cross_entropy(student, teacher.softmax(1))
    torch.testing.assert_close(ofa_loss(student, teacher, labels, 1.0), want)
    sure, hard = torch.tensor([[1e4, 0.0, 0.0, 0.0]] * 3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    enhanced = (2**1.5 - 1) * torch.nn.functional.cross_entropy(student, hard)
    torch.testing.assert_close(ofa_loss(student, sure, hard, 1.5), enhanced)


def test_of_mixed_labels_the_largest_share_counts():
    student, teacher = random(3, 4), random(3, 4, seed=1)
    rows = torch.tensor([[0.7, 0.3, 0, 0], [0, 0.2, 0, 0.8], [0, 0, 0, 0]])
    want = ofa_loss(student, teacher, torch.tensor([0, 3, -1]), EPS, T)
    torch.testing.assert_close(ofa_loss(student, teacher, rows, EPS, T), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("eps", [0.5, 1.0, 2.0])
def test_huge_logits_stay_finite(dtype, eps):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    teacher = student.detach().flip(0).requires_grad_()
    loss = ofa_loss(student, teacher, torch.tensor([0, -1]), eps)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (student, teacher)))


SHAPES = {
    "maps": ([(4, 16, 16), (6, 8, 8), (8, 4, 4)], (8, 4, 4)),
    "maps of one size": ([(4, 4, 4), (4, 4, 4)], (4, 4, 4)),
    "odd maps": ([(4, 7, 5), (6, 3, 3)], (6, 3, 3)),
    "tokens": ([(9, 8), (9, 8), (9, 8)], (9, 8)),
    "tokens, then maps": ([(9, 6), (8, 4, 4)], (8, 4, 4)),
    "vectors": ([(5,), (7,)], (7,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_exit_and_the_classifier_learn(name):
    shapes, last = SHAPES[name]
    setup = Setup({"exits": shapes, "last": last}, [{}, {}], 5, 100, 4)
    method = OFA(OFA.Config(eps=EPS, temperature=T, weight=2.0, exit_weight=3.0), setup).double()
    batch = batch_of(setup_of([], [[], []]), labels=torch.tensor([1, -1, 0, 4]))
    feats = [random(4, *shape, seed=7 + number) for number, shape in enumerate(shapes)]
    batch.student.taps = {"exits": feats}
    terms = method.loss(batch)
    assert list(terms) == ["own", "exits"]
    teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=T)
    torch.testing.assert_close(terms["own"], 2 * literal(batch.labels)(batch.student.logits, teacher))
    exits = [leave(feat) for leave, feat in zip(method.exits, feats, strict=True)]
    torch.testing.assert_close(terms["exits"], 3 * sum(literal(batch.labels)(each, teacher) for each in exits))
    leaves = [batch.student.logits, *feats, *method.parameters()]
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(sum(terms.values()), leaves))
    assert method.stages()[0].task_weight == 1


def test_padding_does_not_count():
    leave = Exit((6, 8), (6, 8), 2, 5).double()
    feat, mask = random(2, 6, 8).detach(), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    outs = [leave(torch.where(mask[:, :, None], feat, filler), mask) for filler in (0.0, 7.0, float("nan"))]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])
    torch.testing.assert_close(outs[0][1:], leave(feat[1:, :4]))


def test_deeper_exits_are_shorter_and_none_is_refused():
    setup = Setup({"exits": [(9, 8)] * 4, "last": (9, 8)}, [{}], 5, 100, 4)
    assert [len(leave.blocks) for leave in OFA(OFA.Config(), setup).exits] == [3, 2, 1, 1]
    with pytest.raises(InputError, match=r"ofa\.layers"):
        OFA.taps(OFA.Config(layers=[]))
