from __future__ import annotations

import pytest
import torch

from kdtool_methods.ickd import ICKD, correlation_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(student, teacher):
    def rows(sample):
        channels = [sample[c].flatten() for c in range(len(sample))]
        gram = [[(a * b).sum() for b in channels] for a in channels]
        return [[value / sum(v**2 for v in row) ** 0.5 for value in row] for row in gram]

    gaps = []
    for s, t in zip(student, teacher, strict=True):
        for a, b in zip(rows(s), rows(t), strict=True):
            gaps += [(x - y) ** 2 for x, y in zip(a, b, strict=True)]
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize(("ours", "theirs"), [((2, 3, 2, 2), (2, 3, 4, 4)), ((1, 2, 3, 1), (1, 2, 2, 2))])
def test_it_is_the_paper_s_loss(ours, theirs):
    assert_agrees(correlation_loss, literal, random(*ours), random(*theirs, seed=1))


def test_a_grid_has_a_correlation_a_cell():
    def by_cell(student, teacher):
        losses = [
            literal(student[:, :, top, left], teacher[:, :, top, left])
            for top in (slice(0, 3), slice(3, 5))
            for left in (slice(0, 2), slice(2, 4))
        ]
        return sum(losses) / 4

    fast = lambda s, t: correlation_loss(s, t, grid=2)  # noqa: E731
    assert_agrees(fast, by_cell, random(2, 3, 5, 4), random(2, 3, 5, 4, seed=1))
    torch.testing.assert_close(correlation_loss(random(2, 3, 1, 1), random(2, 3, 1, 1, seed=1), 4),
                               literal(random(2, 3, 1, 1), random(2, 3, 1, 1, seed=1)))  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1.0, 1e18])
def test_limits(scale):
    feat = (scale * random(2, 3, 4, 4).detach()).float().requires_grad_()
    loss = correlation_loss(feat, random(2, 3, 2, 2, seed=1).float())
    assert loss.isfinite()
    assert torch.autograd.grad(loss, feat)[0].isfinite().all()
    assert correlation_loss(feat, 2 * feat.detach()).item() < 1e-10


def test_half_precision_computes_in_fp32_and_unequal_channels_are_refused():
    feat = (60 * random(2, 3, 4, 4)).half()
    assert correlation_loss(feat, -feat).dtype == torch.float32
    with pytest.raises(ValueError, match="channels differ"):
        correlation_loss(feat, feat[:, :2])


@pytest.mark.parametrize("per", ["channel", "entry"])
def test_the_method_sums_layers_and_teachers_and_trains_all_its_parts(per):
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(6, 2, 2), (9, 7)]])
    method, batch = ICKD(ICKD.Config(per=per), setup).double(), batch_of(setup)
    want, embeds = 0, iter(method.embeds)
    for out in batch.teachers:
        for ours, theirs in zip(batch.student.taps["stages"], out.taps["stages"], strict=True):
            theirs = theirs.mT[..., None] if theirs.ndim == 3 else theirs
            scale = theirs.shape[1] if per == "channel" else 1
            want = want + 2.5 * scale * correlation_loss(next(embeds)(ours), theirs)
    terms = method.loss(batch)
    assert list(terms) == ["correlation"]
    torch.testing.assert_close(terms["correlation"], want)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3)]}
    batch = sentences(shapes, {"stages": [(4, 6)]})
    method = ICKD(ICKD.Config(), setup_of(shapes["stages"], [[(4, 6)]])).double()
    want = method.loss(batch)["correlation"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["correlation"], want)
