from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from kdtool.errors import InputError
from kdtool.method import Own, Parts, Setup
from kdtool_methods.srrl import SRRL, matching_loss, regression_loss
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import assert_padding_does_not_count, sentences


def literal_square(a, b):
    gaps = [(x - y) ** 2 for x, y in zip(a.flatten(), b.flatten(), strict=True)]
    return sum(gaps) / len(gaps)


def literal_soft(student, teacher):
    loss = 0.0
    for s, t in zip(student, teacher, strict=True):
        below, above = sum(x.exp() for x in s), sum(x.exp() for x in t)
        loss = loss - sum(y.exp() / above * (x - below.log()) for x, y in zip(s, t, strict=True))
    return loss / len(student)


@pytest.mark.parametrize("shape", [(3, 5), (1, 2)])
def test_they_are_the_paper_s_losses(shape):
    pair = random(*shape), random(*shape, seed=1)
    assert_agrees(matching_loss, literal_square, *pair)
    assert_agrees(regression_loss, literal_square, *pair)
    assert_agrees(lambda s, t: regression_loss(s, t, "soft"), literal_soft, *pair)


def test_limits():
    feat = random(3, 4)
    assert matching_loss(feat, feat) == regression_loss(feat, feat) == 0
    assert regression_loss(feat.bfloat16(), feat.bfloat16(), "soft").dtype == torch.float32
    assert regression_loss((100 * feat).half(), -(100 * feat).half(), "soft").isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        matching_loss(feat, feat[:, :2])
    with pytest.raises(ValueError, match="logits, soft"):
        regression_loss(feat, feat, "hard")


def built(student=(2, 4, 4), last=(6, 2, 2)):
    classifier = nn.Linear(6, 5).double()
    shapes = {"last": last, "embedding": (6,)}
    setup = Setup({"last": student}, [shapes], 5, 100, 3, teacher_parts=[Parts(Own(classifier, True, "fc"))])
    return SRRL(SRRL.Config(matching=2.0, regression_weight=3.0), setup).double(), classifier


def test_the_teacher_s_classifier_is_applied_where_it_is():
    method, classifier = built()
    feat, embedding, logits = random(3, 2, 4, 4), random(3, 6, seed=1).detach(), random(3, 5, seed=2).detach()
    batch = sentences({"last": (4, 2)}, {"last": (4, 2), "embedding": (6,)})
    batch.student.mask, batch.student.taps = None, {"last": feat}
    batch.teachers[0].taps, batch.teachers[0].logits = {"embedding": embedding}, logits
    classifier.weight.data.mul_(2)  # the teacher is trained after the method was built
    terms = method.loss(batch)
    ours = method.connectors[0].norm(method.connectors[0].project(feat)).relu().mean((2, 3))
    torch.testing.assert_close(terms["matching"], 2 * (ours - embedding).square().mean())
    torch.testing.assert_close(terms["regression"], 3 * (classifier(ours) - logits).square().mean())
    sum(terms.values()).backward()
    assert classifier.weight.grad is None
    assert feat.grad.abs().sum() > 0
    assert not [name for name in method.state_dict() if "classifier" in name]


def test_the_connector_ends_in_a_relu_for_maps_alone():
    assert built()[0].connectors[0].rectify
    assert not built(last=(4, 6))[0].connectors[0].rectify


def test_a_teacher_without_a_classifier_is_refused():
    method, _ = built()
    setup = dataclasses.replace(method.setup, teacher_parts=[Parts("its last layer is no linear one")])
    with pytest.raises(InputError, match=r"srrl applies the teacher's classifier.*no linear one"):
        SRRL(SRRL.Config(), setup)


def test_padding_does_not_count():
    method, _ = built(student=(4, 2), last=(4, 6))
    assert_padding_does_not_count(method, sentences({"last": (4, 2)}, {"last": (4, 6), "embedding": (6,)}))
