"""DistilBERT's loss against Sanh et al. (2019), token by token."""

from __future__ import annotations

import pytest
import torch

from kdtool import Out
from kdtool.losses import softened_kl
from kdtool_methods.distilbert import DistilBERT, cosine_loss
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import (
    LENGTHS,
    alike,
    assert_padding_does_not_count,
    mask_of,
    padded,
    reached,
    real,
    sentences,
    setup_of,
    wider,
)


def literal(mask):
    def loss(student, teacher):
        total, count = 0.0, 0
        for b, i in real(mask):
            s, t = student[b, i], teacher[b, i]
            dot = sum(s[d] * t[d] for d in range(len(s)))
            norms = sum(x**2 for x in s) ** 0.5 * sum(x**2 for x in t) ** 0.5
            total, count = total + 1 - dot / norms, count + 1
        return total / count

    return loss


@pytest.mark.parametrize("lengths", [(4, 1, 3), (2, 2), (3,), (2, 0, 3)])
def test_it_is_the_mean_over_real_tokens(lengths):
    mask, shape = mask_of(*lengths), (len(lengths), max(lengths), 3)
    fast = lambda s, t: cosine_loss(s, t, mask)  # noqa: E731
    assert_agrees(fast, literal(mask), random(*shape), random(*shape, seed=1))


def test_without_a_mask_all_tokens_are_real():
    everything = mask_of(3, 3)
    assert_agrees(cosine_loss, literal(everything), random(2, 3, 4), random(2, 3, 4, seed=1))


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan")])
def test_more_padding_changes_nothing(value):
    mask, student, teacher = mask_of(*LENGTHS), random(3, 4, 5), random(3, 4, 5, seed=1)
    loss = cosine_loss(student, teacher, mask)
    longer = cosine_loss(padded(student, 1, value=value), padded(teacher, 1, value=value), wider(mask))
    torch.testing.assert_close(longer, loss, rtol=1e-14, atol=0)
    (grad,) = torch.autograd.grad(longer, student)
    torch.testing.assert_close(grad, torch.autograd.grad(loss, student)[0], rtol=1e-12, atol=1e-15)
    assert not grad[~mask].any()


def test_limits():
    feat, mask = random(3, 4, 5), mask_of(*LENGTHS)
    assert cosine_loss(feat, 3 * feat, mask).item() == pytest.approx(0, abs=1e-15)
    assert cosine_loss(feat, -feat, mask).item() == pytest.approx(2)
    assert cosine_loss(feat, feat, torch.zeros_like(mask)).item() == 0
    for student in (torch.zeros(3, 4, 5), torch.full((3, 4, 5), 1e15)):
        student.requires_grad_()
        loss = cosine_loss(student, feat.detach().float(), mask)
        assert 0 <= loss.item() <= 2
        assert torch.autograd.grad(loss, student)[0].isfinite().all()
    half = cosine_loss(feat.half(), feat.bfloat16(), mask)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="shapes differ"):
        cosine_loss(feat, feat[:, :, :2])


@pytest.mark.parametrize("size", [1e-33, 1e-30, 1e30, 1e37])
def test_the_size_of_states_does_not_count(size):
    student, teacher, mask = random(3, 4, 5).detach(), random(3, 4, 5, seed=1).detach(), mask_of(*LENGTHS)
    want = literal(mask)(student, teacher).item()
    sized = (size * student).float().requires_grad_()  # its squares are zero or infinite in fp32
    loss = cosine_loss(sized, (size * teacher).float(), mask)
    assert loss.item() == pytest.approx(want, rel=1e-6)
    if size < 1e35:  # else the gradient is itself less than fp32 holds
        usual = student.clone().requires_grad_()
        (expected,) = torch.autograd.grad(literal(mask)(usual, teacher), usual)
        (grad,) = torch.autograd.grad(loss, sized)
        torch.testing.assert_close(size * grad.double(), expected, rtol=1e-4, atol=1e-6)


STUDENT, TEACHERS = {"hidden": (4, 3)}, ({"hidden": (4, 6)}, {"hidden": (4, 3)})


def build(*teachers, **options):
    teachers = teachers or TEACHERS
    torch.manual_seed(0)
    return DistilBERT(DistilBERT.Config(**options), setup_of(STUDENT, *teachers)).double(), sentences(
        STUDENT, *teachers
    )


def test_the_method_weighs_its_terms():
    method, batch = build(TEACHERS[1])
    (stage,) = method.stages()
    assert stage.task_weight == 2.0
    assert not list(method.parameters())  # equal widths need no projection
    terms, student, teacher = stage.loss(batch), batch.student, batch.teachers[0]
    assert list(terms) == ["kl", "cosine"]
    torch.testing.assert_close(terms["kl"], 5 * softened_kl(student.logits, teacher.logits, 2.0))
    cosine = alike(literal, student.mask)(student.taps["hidden"], teacher.taps["hidden"])
    torch.testing.assert_close(terms["cosine"], cosine)
    torch.testing.assert_close(build(TEACHERS[1], cosine_weight=3.0)[0].loss(batch)["cosine"], 3 * cosine)


def test_other_widths_meet_through_a_linear_layer():
    method, batch = build()
    (project,) = method.project.layers.values()
    hidden = batch.student.taps["hidden"]
    ours = (hidden @ project.weight.T + project.bias, hidden)
    theirs = [out.taps["hidden"] for out in batch.teachers]
    want = sum(alike(literal, batch.student.mask)(s, t) for s, t in zip(ours, theirs, strict=True))
    torch.testing.assert_close(method.loss(batch)["cosine"], want)
    weights = {name for name, _ in method.named_parameters()}
    assert reached(method, batch, method.loss) == {"logits", "hidden", *weights}


def test_padding_does_not_count():
    assert_padding_does_not_count(*build())


def test_maps_are_compared_position_by_position():
    shapes = {"hidden": (3, 4, 4)}, {"hidden": (3, 2, 2)}
    method = DistilBERT(DistilBERT.Config(), setup_of(*shapes))
    batch = sentences(*shapes)
    batch.student.mask = None
    ours = torch.nn.functional.avg_pool2d(batch.student.taps["hidden"], 2).flatten(2).transpose(1, 2)
    theirs = batch.teachers[0].taps["hidden"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(method.loss(batch)["cosine"], literal(mask_of(4, 4, 4))(ours, theirs))


def test_layers_are_depths_or_names():
    assert DistilBERT.taps(DistilBERT.Config()).student == {"hidden": 1.0}
    taps = DistilBERT.taps(DistilBERT.Config(student_layer="a", teacher_layer="b"))
    assert (taps.student, taps.teacher) == ({"hidden": "a"}, {"hidden": "b"})


def test_sequences_that_do_not_align_are_refused_where_there_is_padding():
    method, batch = build()
    batch.teachers[0] = Out(batch.teachers[0].logits, {"hidden": random(3, 5, 6)})
    with pytest.raises(ValueError, match="one token for each token"):
        method.loss(batch)
