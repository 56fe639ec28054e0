from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kdtool import Batch, Out, Setup
from kdtool.errors import InputError
from kdtool_methods import crd
from kdtool_methods.crd import CRD, Contrast, Negatives, bank_scores, contrast_loss
from tests.methods.pairs import assert_agrees, random

EPS = 1e-7


def literal(num_samples):
    def loss(positive, negatives):
        batch, count = negatives.shape
        noise, total = count / num_samples, 0.0
        for b in range(batch):
            p = positive[b] if positive.ndim == 1 else positive[b, 0]
            total = total - (p / (p + noise + EPS)).log()
            for n in range(count):
                total = total - (noise / (negatives[b, n] + noise + EPS)).log()
        return total / batch

    return loss


@pytest.mark.parametrize(("batch", "count", "num_samples"), [(4, 6, 50), (2, 1, 2), (1, 9, 5)])
@pytest.mark.parametrize("column", [False, True])
def test_it_is_the_paper_s_equation(batch, count, num_samples, column):
    positive = random(batch, 1).detach().exp() if column else random(batch).detach().exp()
    negatives = random(batch, count, seed=1).detach().exp() / num_samples
    assert_agrees(
        lambda p, n: contrast_loss(p, n, num_samples),
        literal(num_samples),
        positive.requires_grad_(),
        negatives.requires_grad_(),
    )


def test_limits_of_the_loss():
    sure = contrast_loss(torch.full((2,), 1e9), torch.zeros(2, 10), 100)
    assert 0 <= sure.item() < 1e-4
    # Scores equal to the noise: a coin toss for the positive and for each negative.
    tossed = contrast_loss(torch.full((3,), 0.1).double(), torch.full((3, 10), 0.1).double(), 100)
    assert tossed.item() == pytest.approx(11 * math.log(2), rel=1e-5)
    half = contrast_loss(random(3).exp().bfloat16(), random(3, 4).exp().bfloat16(), 9)
    assert half.dtype == torch.float32
    assert half >= 0


def test_many_faint_negatives_are_not_lost_in_single_precision():
    negatives = torch.full((2, 16384), 1e-6)
    positive = torch.full((2,), 1e-6)
    got, want = (contrast_loss(positive.to(t), negatives.to(t), 50_000) for t in (torch.float32, torch.float64))
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


@pytest.mark.parametrize("at_once", [1, 25, 10**6])
def test_bank_scores_are_products_with_gathered_rows(monkeypatch, at_once):
    monkeypatch.setattr(crd, "SCORES_AT_ONCE", at_once)
    anchor, bank = random(5, 3), random(12, 3, seed=1).detach()
    index = torch.randint(12, (5, 7), generator=torch.Generator().manual_seed(0))  # with repetitions
    weight = random(5, 7, seed=2).detach()
    assert_agrees(
        lambda a: (weight * bank_scores(a, bank, index)).sum(),
        lambda a: sum(weight[b, m] * a[b] @ bank[index[b, m]] for b in range(5) for m in range(7)),
        anchor,
    )


def test_bank_scores_stay_in_full_precision_under_autocast():
    anchor, bank, index = random(2, 3).float(), random(4, 3).detach().float(), torch.tensor([[0, 1], [2, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        scores = bank_scores(anchor, bank, index)
    assert torch.equal(scores, bank_scores(anchor, bank, index))


LABELS = torch.tensor([2, 0, -1, 1, 0, 2, -1, 1, 1, 0])


def test_negatives_are_of_other_classes_as_far_as_known():
    drawn = Negatives(10, LABELS)(torch.arange(10), 3, 400)
    for sample, found in enumerate(drawn):
        others = LABELS[sample] != LABELS if LABELS[sample] >= 0 else torch.arange(10) != sample
        assert set(found.tolist()) == set(others.nonzero().flatten().tolist())
        counts = found.bincount(minlength=10)[others]
        assert (counts > 0.4 * counts.double().mean()).all()


@pytest.mark.parametrize("labels", [None, torch.zeros(6, dtype=torch.int64), torch.full((6,), -1)])
def test_without_classes_negatives_are_any_other_samples(labels):
    drawn = Negatives(6, labels)(torch.arange(6), 0, 200)
    for sample, found in enumerate(drawn):
        assert set(found.tolist()) == set(range(6)) - {sample}


def test_draws_follow_from_epoch_and_sample_alone():
    draw = Negatives(10, LABELS)
    whole = draw(torch.arange(10), 3, 50)
    assert torch.equal(draw(torch.tensor([7, 2]), 3, 50), whole[[7, 2]])
    assert torch.equal(draw(torch.arange(10), 3, 20), whole[:, :20])
    assert (draw(torch.arange(10), 4, 50) != whole).double().mean() > 0.5


def test_banks_start_alike_in_every_process_and_differ_among_themselves():
    torch.manual_seed(0)
    first = Contrast(3, 4, 200, 16, 0.07, number=0).banks
    torch.manual_seed(1)
    assert torch.equal(first, Contrast(5, 6, 200, 16, 0.07, number=0).banks)
    assert not torch.equal(first, Contrast(3, 4, 200, 16, 0.07, number=1).banks)
    assert not torch.equal(first[0], first[1])
    assert first.square().sum(2).mean().item() == pytest.approx(1, abs=0.05)
    assert first.abs().max() <= (3 / 16) ** 0.5


def build(teachers=1, size=4, labels=LABELS, seed=0, **options):
    setup = Setup(
        {"embedding": (6,)},
        [{"embedding": (7 + i,)} for i in range(teachers)],
        num_classes=3,
        num_samples=10,
        batch_size=size,
        labels=labels,
    )
    torch.manual_seed(0)
    return CRD(CRD.Config(**{"dim": 5, **options}), setup).double(), batch_of(teachers, size, seed)


def batch_of(teachers=1, size=4, seed=0):
    index = torch.randperm(10, generator=torch.Generator().manual_seed(seed))[:size]
    student = Out(random(size, 3, seed=seed), {"embedding": random(size, 6, seed=seed)})
    outs = [
        Out(random(size, 3), {"embedding": random(size, 7 + i, seed=9 + seed + i).detach()}) for i in range(teachers)
    ]
    return Batch(LABELS[index], index, student, outs, lambda logits: logits.sum())


def by_hand(method, batch, z=None):
    """One teacher's loss, a sample and a negative at a time; and the constants."""
    (contrast,) = method.contrasts
    feats = batch.student.taps["embedding"], batch.teachers[0].taps["embedding"]
    negatives = method.draw(batch.index, batch.epoch, method.count)
    total, constants = 0.0, []
    for side in (0, 1):
        anchors = [embedded / embedded.norm() for embedded in contrast.embed[side](feats[side])]
        bank = contrast.banks[1 - side].clone()
        rows = [[own, *others] for own, others in zip(batch.index.tolist(), negatives.tolist(), strict=True)]
        raw = torch.stack([
            torch.stack([((a @ bank[row]) / method.cfg.temperature).exp() for row in picked])
            for a, picked in zip(anchors, rows, strict=True)
        ])  # fmt: skip
        constants.append(raw.mean().detach() * 10)
        scores = raw / (constants[-1] if z is None else z[side])
        total = total + literal(10)(scores[:, 0], scores[:, 1:])
    return method.cfg.weight * total, torch.stack(constants)


@pytest.mark.parametrize("options", [{}, {"negatives": 20, "negatives_from": "samples", "temperature": 0.5}])
def test_the_loss_is_both_directions_against_the_banks(options):
    method, batch = build(**options)
    terms = method.loss(batch)
    assert list(terms) == ["contrast"]
    want, constants = by_hand(method, batch)
    leaves = [batch.student.taps["embedding"], *method.parameters()]
    torch.testing.assert_close(terms["contrast"], want, rtol=1e-9, atol=1e-9)
    got_grads, want_grads = (torch.autograd.grad(loss, leaves) for loss in (terms["contrast"], want))
    torch.testing.assert_close(got_grads, want_grads, rtol=1e-8, atol=1e-9)
    assert torch.equal(method.loss(batch)["contrast"], terms["contrast"])
    method.after_step(batch)
    torch.testing.assert_close(method.contrasts[0].z, constants, rtol=1e-9, atol=0)


def test_the_constants_are_the_first_batch_s():
    method, first = build()
    method.loss(first)
    method.after_step(first)
    kept = method.contrasts[0].z.clone()
    second = batch_of(seed=3)
    torch.testing.assert_close(method.loss(second)["contrast"], by_hand(method, second, z=kept)[0])
    method.after_step(second)
    assert torch.equal(method.contrasts[0].z, kept)


def test_a_step_moves_its_own_rows_of_the_banks_and_keeps_them_normal():
    method, batch = build(momentum=0.25)
    (contrast,) = method.contrasts
    before = contrast.banks.clone()
    method.loss(batch)
    assert torch.equal(contrast.banks, before)
    method.after_step(batch)
    feats = batch.student.taps["embedding"], batch.teachers[0].taps["embedding"]
    for side in (0, 1):
        embedded = F.normalize(contrast.embed[side](feats[side]), dim=1)
        moved = 0.25 * before[side, batch.index] + 0.75 * embedded
        torch.testing.assert_close(contrast.banks[side, batch.index], moved / moved.norm(dim=1, keepdim=True))
        untouched = [i for i in range(10) if i not in batch.index]
        assert torch.equal(contrast.banks[side, untouched], before[side, untouched])
    assert not contrast.banks.requires_grad


def test_the_loss_needs_no_more_of_the_batch_than_its_order():
    """The same samples in another order give the same loss, as they do when processes split them."""
    method, batch = build(size=6)
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    moved = Batch(
        batch.labels[order],
        batch.index[order],
        Out(batch.student.logits[order], {"embedding": batch.student.taps["embedding"][order]}),
        [Out(out.logits[order], {"embedding": out.taps["embedding"][order]}) for out in batch.teachers],
        batch.task_loss,
    )
    torch.testing.assert_close(method.loss(moved)["contrast"], method.loss(batch)["contrast"])


def test_its_state_makes_a_round_trip():
    (first, batch), (second, _) = build(teachers=2), build(teachers=2)
    first.loss(batch)
    first.after_step(batch)
    state = first.state_dict()
    assert not [name for name in state if name.startswith("draw.")]
    second.load_state_dict(state)
    other = batch_of(2, seed=5)
    assert torch.equal(first.loss(other)["contrast"], second.loss(other)["contrast"])


def test_teachers_have_banks_of_their_own_and_are_summed():
    method, batch = build(teachers=2)
    total = 0
    for number in (0, 1):
        alone = Batch(batch.labels, batch.index, batch.student, [batch.teachers[number]], batch.task_loss)
        single, _ = build(teachers=1)
        single.contrasts = torch.nn.ModuleList([method.contrasts[number]])
        total = total + single.loss(alone)["contrast"]
    torch.testing.assert_close(method.loss(batch)["contrast"], total)


def test_limits_of_the_method():
    method, batch = build(size=2)
    assert method.count == 9  # all others, on so small a set
    batch.student.taps["embedding"] = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    batch.teachers[0].taps["embedding"] = torch.ones(2, 7, dtype=torch.float64)
    loss = method.loss(batch)["contrast"]
    loss.backward()
    assert loss.isfinite()
    assert batch.student.taps["embedding"].grad.isfinite().all()
    method.after_step(batch)
    assert method.contrasts[0].banks.isfinite().all()
    assert build(negatives=3)[0].count == 3
    assert CRD(CRD.Config(), Setup({"embedding": (2,)}, [{"embedding": (2,)}], 2, 20_000, 8)).count == 16384
    with pytest.raises(InputError, match="2 training samples"):
        CRD(CRD.Config(), Setup({"embedding": (2,)}, [{"embedding": (2,)}], 2, 1, 1))


def test_training_brings_pairs_together():
    method, batch = build(size=10, temperature=0.2, negatives_from="samples")
    student = batch.student.taps["embedding"].detach().requires_grad_()
    optimizer = torch.optim.Adam([student, *method.parameters()], lr=0.05)

    def hits():
        (contrast,) = method.contrasts
        ours, theirs = contrast.embeddings(student, batch.teachers[0].taps["embedding"])
        return ((ours @ theirs.T).argmax(1) == torch.arange(10)).sum().item()

    for epoch in range(60):
        batch.epoch, batch.student.taps["embedding"] = epoch, student
        optimizer.zero_grad()
        method.loss(batch)["contrast"].backward()
        optimizer.step()
        method.after_step(batch)
    assert hits() >= 8
