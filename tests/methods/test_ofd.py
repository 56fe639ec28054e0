from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from kdtool.method import Own, Parts
from kdtool_methods.ofd import OFD, Margin, norm_margin, partial_l2
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider

MARGIN = torch.tensor([-0.5, -1.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)


def literal(student, teacher):
    loss = 0.0
    for b in range(len(student)):
        for c in range(3):
            for s, t in zip(student[b, c].flatten(), teacher[b, c].flatten(), strict=True):
                target = t if t > MARGIN[0, c, 0, 0] else MARGIN[0, c, 0, 0]
                loss = loss + (0 * s if s <= target <= 0 else (target - s) ** 2)
    return loss / len(student)


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (1, 3, 1, 5)])
def test_it_is_the_paper_s_loss(shape):
    fast = lambda s, t: partial_l2(s, t, MARGIN)  # noqa: E731
    assert_agrees(fast, literal, random(*shape), random(*shape, seed=1))


def test_limits():
    feat = random(2, 3, 4, 4).detach()
    assert partial_l2(feat.clamp_min(MARGIN), feat, MARGIN) == 0
    assert partial_l2(feat.clamp_min(0) - 5 * (feat < 0), feat, MARGIN) == 0
    assert partial_l2(feat.bfloat16(), -feat.bfloat16(), MARGIN.float()).dtype == torch.float32
    assert partial_l2((1000 * feat).half(), (-1000 * feat).half(), MARGIN).isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        partial_l2(feat, feat[:, :2], MARGIN)


def test_the_margin_is_the_expectation_of_the_negative_values():
    margin = Margin(3).double()
    first, second = random(4, 3, 5, 5).detach(), random(2, 3, 5, 5, seed=1).detach()
    for feat in (first, second):
        feat[:, 2].abs_()
    torch.testing.assert_close(margin(first)[0, 0, 0, 0], first[:, 0][first[:, 0] < 0].mean())
    margin.update(first)
    torch.testing.assert_close(margin(second)[0, 0, 0, 0], first[:, 0][first[:, 0] < 0].mean())
    margin.update(second)
    both = torch.cat([first, second])[:, 1]
    torch.testing.assert_close(margin(second)[0, 1, 0, 0], both[both < 0].mean())
    assert margin(second)[0, 2] == 0


def test_the_method_weighs_and_sums_layers_and_teachers():
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(6, 2, 2), (9, 7)]])
    method, batch = OFD(OFD.Config(weight=2.0), setup).double(), batch_of(setup)
    assert method.weights == [1.0, 2.0, 1.0, 2.0]
    method.after_step(batch)
    want, number = 0, 0
    for out in batch.teachers:
        for ours, theirs in zip(batch.student.taps["stages"], out.taps["stages"], strict=True):
            theirs = theirs.mT[..., None] if theirs.ndim == 3 else theirs
            margin = torch.stack([c[c < 0].mean() for c in theirs.transpose(0, 1)]).view(1, -1, 1, 1)
            regressor = method.regressors[number]
            want = want + method.weights[number] * partial_l2(regressor(ours), theirs, margin)
            number += 1
    terms = method.loss(batch)
    assert list(terms) == ["partial"]
    torch.testing.assert_close(terms["partial"], want)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_the_default_weight_is_the_authors_on_maps_of_their_size():
    setup = setup_of([(2, 8, 8)] * 3, [[(64, 32, 32), (128, 16, 16), (256, 8, 8)]])
    assert OFD(OFD.Config(), setup).weights == pytest.approx([0.25e-3, 0.5e-3, 1e-3])
    assert OFD(OFD.Config(layer_weights="equal"), setup).weights == pytest.approx([1e-3] * 3)


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3)]}
    batch = sentences(shapes, {"stages": [(4, 6)]})
    method = OFD(OFD.Config(), setup_of(shapes["stages"], [[(4, 6)]])).double()
    want = method.loss(batch)["partial"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["partial"], want)
    assert F.relu(want) == want


def test_the_margin_of_a_norm_is_the_paper_s():
    weight, bias = random(40), random(40, seed=1)
    with torch.no_grad():
        weight[0], bias[0] = 0.1, 2.0  # hardly ever negative

    def literal(weight, bias):
        found = []
        for w, m in zip(weight, bias, strict=True):
            s = abs(w)
            below = 0.5 * (1 + torch.erf(-m / s / math.sqrt(2)))
            density = torch.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi)
            found.append(m - s * density / below if below > 0.001 else -3 * s)
        return torch.stack(found).sum()

    assert_agrees(lambda w, m: norm_margin(w, m).sum(), literal, weight, bias)
    draws = 1.5 * torch.randn(10**6, generator=torch.Generator().manual_seed(0)) + 0.7
    torch.testing.assert_close(norm_margin(torch.tensor([-1.5]), torch.tensor([0.7])), draws[draws < 0].mean()[None],
                               rtol=1e-2, atol=0)  # fmt: skip
    assert norm_margin(torch.zeros(2), torch.tensor([1.0, -1.0])).tolist() == [0.0, -1.0]


def test_where_a_layer_comes_out_of_a_norm_its_margin_is_read_there():
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 2, 2)]])
    norm = torch.nn.BatchNorm2d(5).double()
    parts = Parts(norms={"stages": [None, Own(norm, True, "bn")]})
    method = OFD(OFD.Config(), dataclasses.replace(setup, teacher_parts=[parts])).double()
    batch = batch_of(setup)
    norm.bias.data -= 0.3  # as where the teacher is trained after the method was built
    method.after_step(batch)
    torch.testing.assert_close(method.margins[1](batch.teachers[0].taps["stages"][1]).flatten(),
                               norm_margin(norm.weight, norm.bias))  # fmt: skip
    assert method.margins[0].count_C.any()
    assert not method.margins[1].count_C.any()
    assert not [name for name, _ in method.named_parameters() if name.startswith("margins")]
