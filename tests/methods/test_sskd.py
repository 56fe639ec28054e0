from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool import Batch, Out, Setup
from kdtool_methods.sskd import SSKD, TURNED, selected_kl, similarities, target_rank, taught
from tests.methods.pairs import assert_agrees, random


def literal_similarities(turned, upright):
    rows = []
    for a in turned:
        for b in upright:
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            rows.append(dot / (sum(x * x for x in a).sqrt() * sum(y * y for y in b).sqrt()))
    return torch.stack(rows).view(len(turned), len(upright))


def literal_kl(student, teacher, chosen, temperature):
    loss = 0.0
    for s, t in zip(student[chosen], teacher[chosen], strict=True):
        below, above = sum((x / temperature).exp() for x in s), sum((x / temperature).exp() for x in t)
        for x, y in zip(s, t, strict=True):
            p, q = (x / temperature).exp() / below, (y / temperature).exp() / above
            loss = loss + q * (q.log() - p.log())
    return temperature**2 * loss / int(chosen.sum())


def test_they_are_the_paper_s_losses():
    weights = random(6, 2, seed=5).detach()
    assert_agrees(
        lambda a, b: (weights * similarities(a, b)).sum(),
        lambda a, b: (weights * literal_similarities(a, b)).sum(),
        random(6, 3),
        random(2, 3, seed=1),
    )
    chosen = torch.tensor([True, False, True, True])
    for temperature in (0.5, 4.0):
        assert_agrees(
            lambda s, t, T=temperature: selected_kl(s, t, chosen, T),
            lambda s, t, T=temperature: literal_kl(s, t, chosen, T),
            random(4, 5),
            random(4, 5, seed=1),
        )


def test_the_rank_is_that_of_the_authors_code():
    scores, target = random(20, 7).detach(), torch.arange(20) % 7
    order = scores.argsort(dim=1, descending=True)
    assert target_rank(scores, target).tolist() == (order == target[:, None]).long().argmax(1).tolist()
    assert target_rank(scores, torch.full((20,), -1)).tolist() == [0] * 20


@pytest.mark.parametrize(("share", "kept"), [(0.0, [0, 3]), (0.5, [0, 2, 3]), (0.99, [0, 2, 3]), (1.0, [0, 1, 2, 3])])
def test_of_the_wrong_ones_the_least_wrong_are_taught(share, kept):
    assert taught(torch.tensor([0, 5, 1, 0]), share).nonzero().flatten().tolist() == kept


def test_limits():
    none = torch.zeros(3, dtype=torch.bool)
    scores = random(3, 4)
    assert selected_kl(scores, scores.detach(), none, 4.0) == 0
    assert selected_kl(scores, scores.detach(), ~none, 4.0).abs() < 1e-12
    assert selected_kl(scores.bfloat16(), -scores.bfloat16(), ~none, 4.0).dtype == torch.float32
    assert similarities(torch.zeros(2, 3), torch.ones(2, 3)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def batch_of(labels):
    def out(width, seed):
        made = [Out(random(4, 5, seed=seed + i), {"embedding": random(4, width, seed=seed + 10 + i)}) for i in range(4)]
        made[0].views = dict(zip(TURNED, made[1:], strict=True))
        return made[0]

    return Batch(labels, torch.arange(4), out(6, 0), [out(3, 100)], lambda logits: F.cross_entropy(logits, labels))


def built(**options):
    return SSKD(SSKD.Config(**options), Setup({"embedding": (6,)}, [{"embedding": (3,)}], 5, 100, 4)).double()


def test_the_stages_train_the_teacher_s_head_and_then_the_student():
    method, batch = built(), batch_of(torch.tensor([0, 1, -1, 3]))
    head, distill = method.stages()
    assert (head.trains, head.task_weight, distill.task_weight) == (("method",), 0.0, 0.1)
    theirs = batch.teachers[0]
    turned = torch.cat([theirs.views[view].taps["embedding"] for view in TURNED])
    scores = literal_similarities(method.teacher_head(turned), method.teacher_head(theirs.taps["embedding"]))
    want = F.cross_entropy(scores, torch.tensor([0, 1, 2, 3] * 3))
    torch.testing.assert_close(head.loss(batch)["contrast"], want)
    terms = distill.loss(batch)
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in method.teacher_head.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.student_head.parameters())
    assert list(terms) == ["soft", "turned", "similarity"]


def test_only_the_share_counts():
    labels = torch.tensor([0, 1, 2, 3])
    batch = batch_of(labels)
    ours, theirs = (torch.cat([out.views[v].logits for v in TURNED]) for out in (batch.student, batch.teachers[0]))
    right = theirs.argmax(1) == labels.repeat(3)
    assert 0 < right.sum() < 12
    got = built(turned_share=0.0).loss(batch)["turned"]
    torch.testing.assert_close(got, 2.7 * literal_kl(ours, theirs, right, 4.0))
    mixed = batch_of(F.one_hot(labels, 5).double())
    torch.testing.assert_close(built(turned_share=0.0).loss(mixed)["turned"], got)
