from __future__ import annotations

import pytest
import torch
from torch import nn

from kdtool.errors import InputError
from kdtool.method import Own, Parts, Setup
from kdtool_methods.catkd import CATKD, attention_loss, class_maps
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import assert_padding_does_not_count, reached, sentences


def pooled(feat, size):
    height, width = feat.shape
    return [
        feat[i * height // size : -(-(i + 1) * height // size), j * width // size : -(-(j + 1) * width // size)].mean()
        for i in range(size)
        for j in range(size)
    ]


def literal(student, teacher, normalize=True):
    loss, count = 0.0, 0
    for ours, theirs in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        ours, theirs = pooled(ours, 2), pooled(theirs, 2)
        if normalize:
            ours = [x / sum(y * y for y in ours).sqrt() for x in ours]
            theirs = [x / sum(y * y for y in theirs).sqrt() for x in theirs]
        loss = loss + sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
        count += 4
    return loss / count


@pytest.mark.parametrize(("ours", "theirs"), [((2, 3, 4, 4), (2, 3, 5, 7)), ((1, 2, 2, 2), (1, 2, 8, 8))])
@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_the_paper_s_loss(ours, theirs, normalize):
    assert_agrees(
        lambda s, t: attention_loss(s, t, 2, normalize),
        lambda s, t: literal(s, t, normalize),
        random(*ours),
        random(*theirs, seed=1),
    )


def test_limits():
    maps = random(2, 3, 4, 4)
    assert attention_loss(maps, 3 * maps.detach()) < 1e-30
    zero = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_loss(zero, maps.detach().float())
    assert loss.isfinite()
    assert torch.autograd.grad(loss, zero)[0].isfinite().all()
    assert attention_loss(maps.bfloat16(), maps.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="shapes differ"):
        attention_loss(maps, maps[:, :2])


def test_class_maps_average_to_the_logits():
    linear, feat = nn.Linear(4, 5).double(), random(2, 4, 3, 3)
    torch.testing.assert_close(class_maps(feat, Own(linear, False, "fc")).mean((2, 3)), linear(feat.mean((2, 3))))
    one = nn.Conv2d(4, 5, 1).double()
    torch.testing.assert_close(class_maps(feat, Own(one, False, "fc")), one(feat))


def built(student=(3, 4, 4), teacher=(6, 2, 2), width=3):
    ours, theirs = nn.Linear(width, 5).double(), nn.Linear(6, 5).double()
    parts = Parts(Own(ours, False, "fc")), [Parts(Own(theirs, True, "fc"))]
    setup = Setup({"last": student}, [{"last": teacher}], 5, 100, 3, None, *parts)
    return CATKD(CATKD.Config(weight=2.0), setup), ours, theirs


def test_the_student_s_classifier_learns_and_the_teacher_s_does_not():
    method, ours, theirs = built()
    batch = sentences({"last": [(4, 3)]}, {"last": [(4, 6)]})
    batch.student.mask = None
    batch.student.taps, batch.teachers[0].taps = {"last": random(3, 3, 4, 4)}, {"last": random(3, 6, 2, 2).detach()}
    terms = method.loss(batch)
    pairs = (batch.student.taps["last"], ours), (batch.teachers[0].taps["last"], theirs)
    maps = [nn.functional.conv2d(feat, layer.weight[:, :, None, None], layer.bias) for feat, layer in pairs]
    torch.testing.assert_close(terms["attention"], 2 * attention_loss(*maps))
    assert reached(method, batch, method.loss) == {"last"}
    terms["attention"].backward()
    assert ours.weight.grad.abs().sum() > 0
    assert theirs.weight.grad is None


def test_a_layer_between_stage_and_classifier_is_refused():
    with pytest.raises(InputError, match=r"student's classifier.*takes 7 channels.*has 3"):
        built(width=7)


def test_padding_does_not_count():
    method, *_ = built((4, 3), (4, 6))
    assert_padding_does_not_count(method, sentences({"last": (4, 3)}, {"last": (4, 6)}))
