"""FitNets against a literal float64 reading of Romero et al. (2015), Eq. 3 and section 2.2."""

from __future__ import annotations

import pytest
import torch

from kdtool import Batch, Out, Setup
from kdtool.losses import softened_kl
from kdtool_methods.fitnets import FitNets, hint_loss


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch", [2, 3])
def test_hint_loss_follows_the_paper(reduction: str, batch: int) -> None:
    torch.manual_seed(0)
    student = torch.randn(batch, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(batch, 2, 3, 4, dtype=torch.float64)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for s, t in zip(student.flatten(), teacher.flatten(), strict=True):
        total, count = total + 0.5 * (s - t) * (s - t), count + 1
    paper = total / count if reduction == "mean" else total / batch
    ours = hint_loss(student, teacher, reduction)
    torch.testing.assert_close(ours, paper, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, student)[0], torch.autograd.grad(paper, student)[0], rtol=1e-9, atol=1e-12
    )


def test_hint_loss_at_its_limits() -> None:
    feat = torch.randn(2, 3, 4, 4)
    assert hint_loss(feat, feat) == 0
    assert hint_loss(feat.bfloat16(), feat.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="shapes differ"):
        hint_loss(feat, feat[:, :2])
    with pytest.raises(ValueError, match="reduction"):
        hint_loss(feat, feat, "max")


SHAPES = {
    "equal maps": ((4, 8, 8), (6, 8, 8)),
    "a larger student map": ((4, 16, 16), (6, 8, 8)),
    "a smaller student map": ((4, 2, 2), (6, 8, 8)),
    "sizes that do not divide": ((4, 7, 7), (6, 3, 3)),
    "tokens": ((16, 4), (9, 6)),
    "vectors": ((4,), (6,)),
    "map to vector": ((4, 8, 8), (6,)),
    "vector to map": ((4,), (6, 8, 8)),
    "map to tokens": ((4, 8, 8), (16, 6)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_regressor_bridges_any_two_shapes(name: str) -> None:
    student, teacher = SHAPES[name]
    setup = Setup(
        student={"guided": student}, teachers=[{"hint": teacher}] * 2, num_classes=3, num_samples=9, batch_size=2
    )
    method = FitNets(FitNets.Config(), setup)
    guided = torch.randn(2, *student, requires_grad=True)
    hints = [Out(torch.randn(2, 3), {"hint": torch.randn(2, *teacher)}) for _ in range(2)]
    labels = torch.zeros(2, dtype=torch.int64)
    batch = Batch(labels, labels, Out(torch.randn(2, 3), {"guided": guided}), hints, lambda logits: logits.mean())
    terms = method.stages()[0].loss(batch)
    terms["hint"].backward()
    assert guided.grad is not None
    assert all(p.grad is not None for p in method.parameters())
    expected = sum(
        hint_loss(regressor(guided), out.taps["hint"]) for regressor, out in zip(method.regressors, hints, strict=True)
    )
    torch.testing.assert_close(terms["hint"], expected)


def test_the_soft_terms_weight_falls_linearly() -> None:
    setup = Setup(
        student={"guided": (4, 2, 2)}, teachers=[{"hint": (4, 2, 2)}], num_classes=3, num_samples=9, batch_size=2
    )
    method = FitNets(FitNets.Config(), setup)
    hint, distill = method.stages()
    assert (hint.task_weight, distill.task_weight) == (0.0, 1.0)
    student, teacher = torch.randn(2, 2, 3, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.int64)
    for progress, weight in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        batch = Batch(labels, labels, Out(student), [Out(teacher)], lambda x: x.mean(), progress=progress)
        expected = weight * softened_kl(student, teacher, 3.0) / 9  # without T^2
        torch.testing.assert_close(distill.loss(batch)["kl"], expected)


@pytest.mark.parametrize("name", SHAPES)
def test_the_joint_mode_is_one_stage_of_hard_labels_and_the_hint(name: str) -> None:
    student, teacher = SHAPES[name]
    setup = Setup(student={"guided": student}, teachers=[{"hint": teacher}], num_classes=3, num_samples=9, batch_size=2)
    method = FitNets(FitNets.Config(mode="joint"), setup)
    (stage,) = method.stages()
    assert (stage.trains, stage.task_weight) == (("student", "method"), 1.0)
    guided, hint = torch.randn(2, *student, requires_grad=True), torch.randn(2, *teacher)
    labels = torch.zeros(2, dtype=torch.int64)
    out = Out(torch.randn(2, 3), {"guided": guided})
    batch = Batch(labels, labels, out, [Out(torch.randn(2, 3), {"hint": hint})], lambda x: x.mean())
    regressed = method.regressors[0](guided)
    assert regressed.shape == hint.shape
    assert (regressed >= 0).all()
    terms = stage.loss(batch)
    assert list(terms) == ["hint"]
    torch.testing.assert_close(terms["hint"], 100 * (regressed - hint).square().mean())
    terms["hint"].backward()
    assert guided.grad is not None


def test_the_hint_has_a_weight() -> None:
    shape = {"guided": (4, 2, 2)}
    setup = Setup(student=shape, teachers=[{"hint": (4, 2, 2)}], num_classes=3, num_samples=9, batch_size=2)
    guided, hint = torch.randn(2, 2, 4, 2, 2)
    labels = torch.zeros(2, dtype=torch.int64)
    out = Out(torch.randn(2, 3), {"guided": guided})
    batch = Batch(labels, labels, out, [Out(torch.randn(2, 3), {"hint": hint})], lambda x: x.mean())
    torch.manual_seed(0)
    plain = FitNets(FitNets.Config(), setup).hint(batch)["hint"]
    torch.manual_seed(0)
    torch.testing.assert_close(FitNets(FitNets.Config(hint_weight=7.0), setup).hint(batch)["hint"], 7 * plain)
