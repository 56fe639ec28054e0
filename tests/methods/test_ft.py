from __future__ import annotations

import math

import pytest
import torch

from kdtool import Batch, Out, Setup
from kdtool_methods.ft import FT, Paraphraser, energy, factor_loss
from tests.methods.pairs import assert_agrees, random


def literal(p):
    def loss(student, teacher):
        total, entries = 0.0, 0
        for s, t in zip(student, teacher, strict=True):
            s, t = s.reshape(-1), t.reshape(-1)
            s, t = s / sum(v**2 for v in s) ** 0.5, t / sum(v**2 for v in t) ** 0.5
            gaps = [a - b for a, b in zip(s, t, strict=True)]
            entries += len(gaps)
            total = total + (sum(gap.abs() for gap in gaps) if p == 1 else sum(gap**2 for gap in gaps) ** 0.5)
        return total / (entries if p == 1 else len(student))

    return loss


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (2, 5)])
def test_it_is_the_equation(p, shape):
    fast = lambda s, t: factor_loss(s, t, p)  # noqa: E731
    assert_agrees(fast, literal(p), random(*shape), random(*shape, seed=1))


@pytest.mark.parametrize("p", [1, 2])
def test_limits(p):
    factor = random(3, 2, 2, 2)
    same = factor_loss(factor, factor.detach(), p)
    assert same.item() == 0
    assert torch.autograd.grad(same, factor)[0].isfinite().all()
    assert factor_loss(7 * factor, factor, p).item() < 1e-15
    for student in (torch.zeros(3, 2, 2, 2), torch.ones(3, 2, 2, 2), 1e8 * torch.ones(3, 2, 2, 2)):
        student.requires_grad_()
        loss = factor_loss(student, factor.detach().float(), p)
        (grad,) = torch.autograd.grad(loss, student)
        assert math.isfinite(loss.item())
        assert grad.isfinite().all()
        assert grad.abs().max() < 100
    half = factor_loss(factor.bfloat16(), random(3, 2, 2, 2, seed=1).bfloat16(), p)
    assert half.dtype == torch.float32
    assert half > 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        factor_loss(random(2, 3), random(2, 4))
    with pytest.raises(ValueError, match="1 or 2"):
        factor_loss(random(2, 3), random(2, 3), p=3)


def test_the_paraphraser_is_a_mirror():
    paraphraser = Paraphraser(6, 3)
    shapes = [tuple(p.shape) for name, p in paraphraser.named_parameters() if p.ndim == 4]
    # Convolutions hold (out, in, 3, 3), transposed ones (in, out, 3, 3).
    assert shapes == [(6, 6, 3, 3), (3, 6, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 6, 3, 3), (6, 6, 3, 3)]
    kinds = [type(m).__name__ for m in paraphraser.modules()]
    assert (kinds.count("Conv2d"), kinds.count("ConvTranspose2d")) == (3, 3)
    assert (kinds.count("BatchNorm2d"), kinds.count("LeakyReLU")) == (6, 6)
    assert {m.negative_slope for m in paraphraser.modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.1}
    assert "BatchNorm2d" not in [type(m).__name__ for m in Paraphraser(6, 3, batch_norm=False).modules()]
    feat = random(2, 6, 4, 5).float()
    assert paraphraser(feat).shape == feat.shape
    assert paraphraser.factor(feat).shape == (2, 3, 4, 5)


def build(student=(3, 4, 4), teachers=((6, 2, 2), (5, 7)), seed=0, **options):
    torch.manual_seed(seed)
    setup = Setup({"map": student}, [{"map": shape} for shape in teachers], 5, 100, 4)
    outs = [Out(random(4, 5), {"map": random(4, *shape, seed=n).detach()}) for n, shape in enumerate(teachers, 1)]
    batch = Batch(
        torch.zeros(4, dtype=torch.int64), torch.arange(4), Out(random(4, 5), {"map": random(4, *student, seed=9)}),
        outs, lambda logits: logits.sum(),
    )  # fmt: skip
    return FT(FT.Config(**options), setup).double(), batch


def reached(method, batch, loss):
    leaves = {"map": batch.student.taps["map"], **dict(method.named_parameters())}
    found = torch.autograd.grad(sum(loss(batch).values()), list(leaves.values()), allow_unused=True)
    return {name for name, grad in zip(leaves, found, strict=True) if grad is not None}


def test_stages_train_what_they_say():
    method, batch = build()
    paraphrase, distill = method.stages()
    assert (paraphrase.epochs, paraphrase.trains, paraphrase.task_weight) == (0.1, ("method",), 0.0)
    assert (distill.epochs, distill.trains, distill.task_weight) == (None, ("student", "method"), 1.0)
    names = [name for name, _ in method.named_parameters()]
    assert reached(method, batch, paraphrase.loss) == {n for n in names if n.startswith("paraphrasers.")}
    assert reached(method, batch, distill.loss) == {"map"} | {n for n in names if n.startswith("translators.")}
    assert build(paraphrase_epochs=7)[0].stages()[0].epochs == 7


def test_both_stages_sum_over_teachers():
    method, batch = build(weight=3.0, p=2)
    method.eval()
    maps = [batch.teachers[0].taps["map"], batch.teachers[1].taps["map"].transpose(1, 2).unsqueeze(3)]
    want = sum((paraphraser(x) - x).square().mean() for paraphraser, x in zip(method.paraphrasers, maps, strict=True))
    torch.testing.assert_close(method.paraphrase(batch)["reconstruction"], want)
    student = batch.student.taps["map"]
    first = torch.nn.functional.avg_pool2d(method.translators[0](student), 2)
    second = torch.nn.functional.avg_pool2d(method.translators[1](student), (1, 4))
    pooled = torch.nn.functional.adaptive_avg_pool2d(method.paraphrasers[1].factor(maps[1]), (4, 1))
    want = factor_loss(first, method.paraphrasers[0].factor(maps[0]), 2) + factor_loss(second, pooled, 2)
    torch.testing.assert_close(method.loss(batch)["factor"], 3 * want)


def test_the_absolute_error_of_the_released_code():
    method, batch = build(reconstruction="absolute", teachers=((6, 2, 2),), batch_norm=False)
    feat = batch.teachers[0].taps["map"]
    want = (method.paraphrasers[0](feat) - feat).abs().mean()
    torch.testing.assert_close(method.paraphrase(batch)["reconstruction"], want)


@pytest.mark.parametrize(("rate", "factors"), [(0.5, 3), (0.75, 4), (0.01, 1), (2.0, 12)])
def test_the_rate_sets_the_factor_s_channels(rate, factors):
    method, batch = build(teachers=((6, 2, 2),), rate=rate)
    assert method.paraphrasers[0].factor(batch.teachers[0].taps["map"]).shape[1] == factors
    assert method.translators[0](batch.student.taps["map"]).shape[1] == factors


def test_the_default_weight_is_the_authors_at_their_size():
    at_theirs = {"student": (64, 8, 8), "teachers": ((64, 8, 8),)}
    assert build(**at_theirs)[0].weights == pytest.approx([500])
    assert build(**at_theirs, p=2)[0].weights == pytest.approx([500 / 2048**0.5])
    assert build(student=(64, 4, 4), teachers=((64, 8, 8),))[0].weights == pytest.approx([250])


def test_its_state_makes_a_round_trip():
    (first, batch), (second, _) = build(seed=1), build(seed=2)
    first.paraphrase(batch)  # moves the running statistics
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    for name in ("paraphrase", "loss"):
        assert torch.equal(*(next(iter(getattr(m, name)(batch).values())) for m in (first, second)))


def test_the_paraphraser_learns_to_reconstruct():
    method, batch = build(teachers=((6, 3, 3),))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = method.paraphrase(batch)["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_energy_is_the_channels_mean_of_squares():
    def literal_energy(student, teacher):
        def of(factor):
            rows = [
                [sum(v**2 for v in sample[:, y, x]) / len(sample) for y in range(2) for x in range(3)]
                for sample in factor
            ]
            return torch.stack([torch.stack(row) for row in rows])

        return literal(1)(of(student), of(teacher))

    fast = lambda s, t: factor_loss(energy(s), energy(t))  # noqa: E731
    assert_agrees(fast, literal_energy, random(3, 4, 2, 3), random(3, 5, 2, 3, seed=1))


def test_the_form_of_the_tables_of_cifar():
    method, batch = build(teachers=((6, 4, 4),), factor="energy", batch_norm=False, translator_norm=True)
    assert method.weights == [200.0]
    kinds = {
        part: [type(m).__name__ for m in getattr(method, part).modules()] for part in ("paraphrasers", "translators")
    }
    assert "BatchNorm2d" not in kinds["paraphrasers"]
    assert kinds["translators"].count("BatchNorm2d") == 3
    ours, theirs = method.translators[0](batch.student.taps["map"]), batch.teachers[0].taps["map"]
    want = factor_loss(energy(ours), energy(method.paraphrasers[0].factor(theirs)))
    torch.testing.assert_close(method.loss(batch)["factor"], 200 * want)


def test_the_paraphraser_may_have_a_rate_and_a_schedule_of_its_own():
    stage = build(paraphrase_lr=0.01, paraphrase_schedule="constant")[0].stages()[0]
    assert (stage.lr, stage.schedule) == (0.01, "constant")
