from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool.layers import common_size
from kdtool_methods.mgd import MGD, generation_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(student, teacher):
    return sum((a - b) ** 2 for a, b in zip(student.flatten(), teacher.flatten(), strict=True)) / len(student)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 2, 3, 1)])
def test_it_is_the_paper_s_loss(shape):
    assert_agrees(generation_loss, literal, random(*shape), random(*shape, seed=1))


def test_limits():
    feat = random(2, 3, 4, 4)
    assert generation_loss(feat, feat) == 0
    assert generation_loss(feat.half(), -feat.half()).dtype == torch.float32
    assert generation_loss((1000 * feat).half(), (-1000 * feat).half()).isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        generation_loss(feat, feat[:, :2])


def build(**options):
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(2, 4, 4), (5, 3, 3)], [(6, 2, 2), (9, 7)]])
    return MGD(MGD.Config(**options), setup).double(), batch_of(setup)


@pytest.mark.parametrize("mask", ["positions", "channels"])
def test_the_method_generates_from_what_is_left(mask):
    method, batch = build(mask=mask, ratio=0.5, weight=2.0)
    want, layer = 0, 0
    for out in batch.teachers:
        for ours, theirs in zip(batch.student.taps["stages"], out.taps["stages"], strict=True):
            theirs = theirs.mT[..., None] if theirs.ndim == 3 else theirs
            generator, hidden = method.generators[layer], method.hidden(batch, layer, theirs)
            assert hidden.shape == ((4, theirs.shape[1], 1, 1) if mask == "channels" else (4, 1, *theirs.shape[2:]))
            aligned = generator.align(ours)
            pooled = F.adaptive_avg_pool2d(aligned, common_size(ours.shape[1:], theirs.shape[1:]))
            aligned = F.interpolate(pooled, theirs.shape[2:], mode="bilinear")
            want = want + 2 * generation_loss(generator.generate(aligned * ~hidden), theirs)
            layer += 1
    terms = method.loss(batch)
    assert list(terms) == ["generation"]
    torch.testing.assert_close(terms["generation"], want)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_masks_follow_from_sample_epoch_and_layer():
    method, batch = build(ratio=0.5)
    theirs = batch.teachers[0].taps["stages"][0]
    first = method.hidden(batch, 0, theirs)
    assert torch.equal(method.hidden(batch, 0, theirs), first)
    assert not torch.equal(method.hidden(batch, 1, theirs), first)
    batch.epoch = 1
    assert not torch.equal(method.hidden(batch, 0, theirs), first)


def test_the_default_weight_is_the_paper_s_on_maps_of_its_size():
    setup = setup_of(
        [(2, 7, 7)],
        [
            [
                (512, 7, 7),
            ][:1]
        ],
    )
    assert MGD(MGD.Config(), setup).weights == [pytest.approx(7e-5)]
    assert MGD(MGD.Config(weight=3.0), setup).weights == [3.0]


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3)]}
    batch = sentences(shapes, {"stages": [(4, 6)]})
    method = MGD(MGD.Config(ratio=0.4), setup_of(shapes["stages"], [[(4, 6)]])).double()
    want = method.loss(batch)["generation"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["generation"], want)
