"""USKD against a literal float64 reading of Yang et al. (2023), section 4."""

from __future__ import annotations

import pytest
import torch

from kdtool import Out, Setup
from kdtool_methods.uskd import USKD, self_loss, self_parts, zipf_labels
from tests.methods.pairs import assert_agrees, batch_of, random, setup_of

ALPHA, BETA, MU = 0.7, 0.3, 0.2


def softmax(row):
    powers = [z.exp() for z in row]
    return [power / sum(powers) for power in powers]


def soft_labels(s, w, label, ranked):
    """Zipf's law in the order of w_i / (1 - w_y) + s_i / (1 - s_y)."""
    s, w = ([p.item() for p in softmax(row.detach())] for row in (s, w))
    standing = [a / (1 - w[label]) + b / (1 - s[label]) for a, b in zip(w, s, strict=True)]
    classes = [k for k in range(len(s)) if ranked == "all" or k != label]
    order = sorted(classes, key=lambda k: -standing[k])
    zipf = {k: 1 / rank for rank, k in enumerate(order, 1) if k != label}
    return [zipf[k] / sum(zipf.values()) for k in sorted(zipf)]


def literal(labels, ranked):
    def loss(student, weak):
        rows = [each for each in zip(student, weak, labels.tolist(), strict=True) if each[2] >= 0]
        mean = sum(softmax(s)[label].item() ** 2 for s, _, label in rows) / len(rows)
        total = 0.0
        for s, w, label in rows:
            p, classes = softmax(s), len(s)
            total = total - ALPHA * (1 + p[label].item() ** 2 - mean) * p[label].log()
            n_s = softmax([z for k, z in enumerate(s) if k != label])
            zipf = soft_labels(s, w, label, ranked)
            total = total - BETA * sum(a * b.log() for a, b in zip(zipf, n_s, strict=True))
            hard = [0.1 / classes + 0.9 * (k == label) for k in range(classes)]
            total = total - MU * sum(a * b.log() for a, b in zip(hard, softmax(w), strict=True))
        return total / len(rows)

    return loss


@pytest.mark.parametrize("ranked", ["others", "all"])
@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1], [-1, 4, 0, -1]])
def test_it_is_the_paper_s_equation(labels, ranked):
    labels = torch.tensor(labels)
    student, weak = random(len(labels), 5), random(len(labels), 5, seed=1)
    fast = lambda s, w: self_loss(s, w, labels, ALPHA, BETA, MU, ranked)  # noqa: E731
    assert_agrees(fast, literal(labels, ranked), student, weak)


def test_the_rank_decides_and_the_target_may_take_a_place():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0]])
    label = torch.tensor([0])
    want = torch.tensor([[1 / 3, 1.0, 1 / 2]])
    torch.testing.assert_close(zipf_labels(logits, logits, label, "others"), want / want.sum())
    want = torch.tensor([[1 / 4, 1 / 2, 1 / 3]])
    torch.testing.assert_close(zipf_labels(logits, logits, label, "all"), want / want.sum())
    with pytest.raises(ValueError, match="ranked"):
        zipf_labels(logits, logits, label, "none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ranked", ["others", "all"])
def test_huge_logits_stay_finite(dtype, ranked):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    loss = self_loss(student, student.detach().flip(0), torch.tensor([0, 0]), 1.0, 1.0, 1.0, ranked)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_batch_without_labels_costs_nothing_and_two_classes_have_no_ranking():
    student, weak = random(3, 4), random(3, 4, seed=1)
    loss = self_loss(student, weak, torch.full((3,), -1), 1.0, 1.0, 1.0)
    assert loss.item() == 0
    assert not any(grad.any() for grad in torch.autograd.grad(loss, (student, weak)))
    _, others, _ = self_parts(random(2, 2), random(2, 2, seed=1), torch.tensor([0, 1]))
    assert others.item() == 0


@pytest.mark.parametrize("shape", [(3, 4, 4), (6, 3), (3,)])
def test_the_method_takes_maps_tokens_and_vectors(shape):
    setup = Setup({"middle": shape}, [], 5, 100, 4)
    method = USKD(USKD.Config(alpha=ALPHA, beta=BETA, mu=MU), setup).double()
    batch = batch_of(setup_of([], []), labels=torch.tensor([1, -1, 0, 4]))
    feat = random(4, *shape, seed=3)
    batch.student.taps = {"middle": feat}
    terms = method.loss(batch)
    assert list(terms) == ["target", "others", "weak"]
    pooled = {3: lambda: feat.mean((2, 3)), 2: lambda: feat.mean(1), 1: lambda: feat}[len(shape)]()
    weak = method.classifier(pooled)
    torch.testing.assert_close(sum(terms.values()), literal(batch.labels, "others")(batch.student.logits, weak))
    leaves = [feat, batch.student.logits, *method.parameters()]
    assert all(grad.any() for grad in torch.autograd.grad(sum(terms.values()), leaves))
    assert torch.autograd.grad(method.loss(batch)["weak"], feat)[0][1].abs().sum() == 0  # no label, no gradient


def test_padding_does_not_count():
    setup = Setup({"middle": (6, 3)}, [], 5, 100, 2)
    method = USKD(USKD.Config(), setup).double()
    batch = batch_of(setup_of([], []), size=2)
    feat = random(2, 6, 3).detach()
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    values = []
    for filler in (0.0, 7.0, float("nan")):
        padded = torch.where(mask[:, :, None], feat, filler)
        batch.student = Out(batch.student.logits, {"middle": padded}, mask)
        values.append(method.loss(batch)["weak"].item())
    assert values[0] == values[1] == values[2]
    mean = torch.stack([feat[0].mean(0), feat[1, :4].mean(0)])
    weak = self_parts(batch.student.logits, method.classifier(mean), batch.labels)[2]
    assert values[0] == pytest.approx(0.1 * weak.item())
