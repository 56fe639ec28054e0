from __future__ import annotations

import pytest
import torch

from kdtool import Setup
from kdtool_methods.embed import Embed, embedding_loss
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import assert_padding_does_not_count, reached, sentences


def literal(student, teacher, cosine=0.9, smooth=0.1):
    apart, entries = 0.0, []
    for s, t in zip(student, teacher, strict=True):
        s, t = s / sum(x * x for x in s).sqrt(), t / sum(x * x for x in t).sqrt()
        apart = apart + 1 - sum(a * b for a, b in zip(s, t, strict=True))
        for a, b in zip(s, t, strict=True):
            gap = len(s) ** 0.5 * (a - b).abs()
            entries.append(0.5 * gap**2 if gap < 1 else gap - 0.5)
    return cosine * apart / len(student) + smooth * sum(entries) / len(entries)


@pytest.mark.parametrize("weights", [(0.9, 0.1), (1.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("shape", [(3, 4), (1, 2)])
def test_it_is_the_loss_read_literally(weights, shape):
    pair = random(*shape), random(*shape, seed=1)
    assert_agrees(lambda s, t: embedding_loss(s, t, *weights), lambda s, t: literal(s, t, *weights), *pair)


def test_limits():
    feat = random(3, 4).detach()
    assert embedding_loss(feat, 5 * feat).abs() < 1e-12
    assert embedding_loss(feat, -feat, 1.0, 0.0) == pytest.approx(2)
    assert embedding_loss(feat.bfloat16(), feat.bfloat16()).dtype == torch.float32
    assert embedding_loss((1000 * feat).half(), (-1000 * feat).half()).isfinite()
    zero = torch.zeros(2, 3, requires_grad=True)
    assert torch.autograd.grad(embedding_loss(zero, torch.ones(2, 3)), zero)[0].isfinite().all()
    with pytest.raises(ValueError, match="shapes differ"):
        embedding_loss(feat, feat[:, :2])


ROLES = {"embedding": (3,), "last": (4, 5)}, {"embedding": (6,), "last": (4, 7)}


def test_pooled_and_dense_terms_train_all_their_parts():
    method = Embed(Embed.Config(pooled=2.0, dense=3.0), Setup(ROLES[0], [ROLES[1]], 5, 100, 3)).double()
    batch = sentences(*ROLES, lengths=(4, 4, 4))
    terms, ours, theirs = method.loss(batch), batch.student.taps, batch.teachers[0].taps
    torch.testing.assert_close(terms["pooled"], 2 * literal(method.pooled[0](ours["embedding"]), theirs["embedding"]))
    rows = method.dense[0].project(ours["last"].flatten(0, 1)), theirs["last"].flatten(0, 1)
    torch.testing.assert_close(terms["dense"], 3 * literal(*rows))
    every = {"embedding", "last", *(name for name, _ in method.named_parameters())}
    assert reached(method, batch, method.loss) == every
    assert method.stages()[0].task_weight == 1.0


def test_without_the_dense_term_nothing_dense_is_read():
    cfg = Embed.Config(dense=0.0)
    assert list(Embed.taps(cfg).teacher) == ["embedding"]
    method = Embed(cfg, Setup({"embedding": (3,)}, [{"embedding": (6,)}], 5, 100, 3)).double()
    assert list(method.loss(sentences({"embedding": (3,)}, {"embedding": (6,)}))) == ["pooled"]


def test_padding_does_not_count():
    method = Embed(Embed.Config(), Setup(ROLES[0], [ROLES[1]], 5, 100, 3)).double()
    assert_padding_does_not_count(method, sentences(*ROLES))
