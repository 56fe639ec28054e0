"""TinyBERT against Jiao et al. (2020), Eq. 7 to 10, entry by entry."""

from __future__ import annotations

import math

import pytest
import torch

from kdtool.engine.plan import plan_stages
from kdtool.errors import InputError
from kdtool_methods.tinybert import TinyBERT, attention_loss, hidden_loss, prediction_loss, scores_of
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
from tests.methods.test_tokens import layer


def literal_hidden(mask):
    def loss(student, teacher):
        total, count = 0.0, 0
        for b, i in real(mask):
            for s, t in zip(student[b, i], teacher[b, i], strict=True):
                total, count = total + (s - t) ** 2, count + 1
        return total / count

    return loss


def literal_attention(mask):
    def loss(student, teacher):
        total, count = 0.0, 0
        for b, row in enumerate(mask):
            for head in range(student.shape[1]):
                for i in range(int(row.sum())):
                    for j in range(int(row.sum())):
                        total = total + (student[b, head, i, j] - teacher[b, head, i, j]) ** 2
            count += student.shape[1] * int(row.sum()) ** 2
        return total / count

    return loss


def literal_prediction(temperature):
    def loss(student, teacher):
        total = 0.0
        for s, t in zip(student, teacher, strict=True):
            s, t = s / temperature, t / temperature
            of = [value.exp() / sum(v.exp() for v in t) for value in t]
            total = total - sum(p * (x - sum(v.exp() for v in s).log()) for p, x in zip(of, s, strict=True))
        return total / len(student)

    return loss


RAGGED = [(4, 1, 3), (2, 2), (3,), (2, 0, 3)]


@pytest.mark.parametrize("lengths", RAGGED)
def test_hidden_loss_is_the_mean_over_real_tokens(lengths):
    mask, shape = mask_of(*lengths), (len(lengths), max(lengths), 3)
    fast = lambda s, t: hidden_loss(s, t, mask)  # noqa: E731
    assert_agrees(fast, literal_hidden(mask), random(*shape), random(*shape, seed=1))


@pytest.mark.parametrize("lengths", RAGGED)
def test_attention_loss_is_the_mean_over_real_pairs(lengths):
    mask, shape = mask_of(*lengths), (len(lengths), 2, max(lengths), max(lengths))
    fast = lambda s, t: attention_loss(s, t, mask)  # noqa: E731
    assert_agrees(fast, literal_attention(mask), random(*shape), random(*shape, seed=1))


def test_without_a_mask_all_tokens_are_real():
    whole = mask_of(3, 3)
    assert_agrees(hidden_loss, literal_hidden(whole), random(2, 3, 4), random(2, 3, 4, seed=1))
    assert_agrees(attention_loss, literal_attention(whole), random(2, 2, 3, 3), random(2, 2, 3, 3, seed=1))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("size", [1, 3])
def test_prediction_loss_is_the_equation(temperature, size):
    fast = lambda s, t: prediction_loss(s, t, temperature)  # noqa: E731
    assert_agrees(fast, literal_prediction(temperature), random(size, 4), random(size, 4, seed=1))


@pytest.mark.parametrize("value", [0.0, 7.0, float("-inf"), float("nan")])
@pytest.mark.parametrize(("loss", "shape", "dims"), [(hidden_loss, (3, 4, 5), 1), (attention_loss, (3, 2, 4, 4), 2)])
def test_more_padding_changes_nothing(loss, shape, dims, value):
    mask, student, teacher = mask_of(*LENGTHS), random(*shape), random(*shape, seed=1)
    plain = loss(student, teacher, mask)
    longer = loss(padded(student, dims, value=value), padded(teacher, dims, value=value), wider(mask))
    torch.testing.assert_close(longer, plain, rtol=1e-14, atol=0)
    grads = [torch.autograd.grad(each, student)[0] for each in (longer, plain)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("loss", "shape"), [(hidden_loss, (3, 4, 4)), (attention_loss, (3, 2, 4, 4))])
def test_limits(loss, shape):
    feat, mask = random(*shape), mask_of(*LENGTHS)
    same = loss(feat, feat.detach(), mask)
    assert same.item() == 0
    assert not torch.autograd.grad(same, feat)[0].any()
    assert loss(feat, 2 * feat, torch.zeros_like(mask)).item() == 0
    assert loss(feat, 2 * feat, mask.long()) == loss(feat, 2 * feat, mask)
    half = loss((300 * feat).half(), (-300 * feat).half(), mask)
    assert half.dtype == torch.float32
    assert half.isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        loss(feat, feat[..., :2], mask)


def test_huge_logits_are_taken():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    loss = prediction_loss(logits, logits.detach())
    assert loss.item() == pytest.approx(math.log(2) / 2)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_scores_are_those_before_the_softmax_up_to_a_constant_a_row():
    mask, score = mask_of(*LENGTHS), random(3, 2, 4, 4).detach()
    attention = score.masked_fill(~mask[:, None, None], float("-inf")).softmax(3)
    found = scores_of(attention, mask)
    for b, i in real(mask):
        row = score[b, :, i, : LENGTHS[b]]
        torch.testing.assert_close(found[b, :, i, : LENGTHS[b]], row - row.mean(1, keepdim=True))
        assert not found[b, :, i, LENGTHS[b] :].any()
    zeros = torch.zeros(1, 1, 2, 2, requires_grad=True)
    assert torch.autograd.grad(scores_of(zeros).sum(), zeros)[0].isfinite().all()


SHAPES = {"embeddings": (4, 3), "stages": [(4, 3), (4, 3)], "attention": [(2, 4, 4), (2, 4, 4)]}
WIDER = {"embeddings": (4, 6), "stages": [(4, 6), (4, 6)], "attention": [(2, 4, 4), (2, 4, 4)]}
ALL = {"attention": True, "student_embeddings": "a", "teacher_embeddings": "b"}


def build(*teachers, **options):
    torch.manual_seed(0)
    method = TinyBERT(TinyBERT.Config(**options), setup_of(SHAPES, *teachers)).double()
    return method, sentences(SHAPES, *teachers)


@pytest.mark.parametrize("form", ["tapped", "scores"])
def test_the_first_stage_learns_embeddings_hidden_states_and_attention(form):
    method, batch = build(WIDER, attention_form=form, **ALL)
    if form == "scores":
        for out in (batch.student, *batch.teachers):
            out.taps["attention"] = [each.softmax(3) for each in out.taps["attention"]]
    stage, _ = method.stages()
    assert (stage.name, stage.task_weight) == ("intermediate", 0.0)
    (w_h,), (w_e,) = method.hidden.layers.values(), method.embeddings.layers.values()
    mask, ours, theirs = batch.student.mask, batch.student.taps, batch.teachers[0].taps
    hidden, attention = alike(literal_hidden, mask), alike(literal_attention, mask)
    reading = (lambda maps: scores_of(maps, mask)) if form == "scores" else (lambda maps: maps)
    pairs = zip(ours["attention"], theirs["attention"], strict=True)
    want = {
        "embeddings": hidden(ours["embeddings"] @ w_e.weight.T + w_e.bias, theirs["embeddings"]),
        "hidden": sum(
            hidden(s @ w_h.weight.T + w_h.bias, t) for s, t in zip(ours["stages"], theirs["stages"], strict=True)
        ),
        "attention": sum(attention(reading(s), reading(t)) for s, t in pairs),
    }
    terms = stage.loss(batch)
    assert list(terms) == list(want)
    for name, term in terms.items():
        torch.testing.assert_close(term, want[name])
    if form == "tapped":
        weights = {name for name, _ in method.named_parameters()}
        taps = {"embeddings", "stages.0", "stages.1", "attention.0", "attention.1"}
        assert reached(method, batch, stage.loss) == {*weights, *taps}


def test_the_second_stage_learns_the_soft_labels():
    method, batch = build(WIDER)
    stage = method.stages()[1]
    assert (stage.name, stage.task_weight, stage.trains) == ("prediction", 0.0, ("student",))
    terms = stage.loss(batch)
    want = literal_prediction(1.0)(batch.student.logits, batch.teachers[0].logits)
    torch.testing.assert_close(terms["soft"], want)
    assert reached(method, batch, stage.loss) == {"logits"}


def test_by_default_hidden_states_alone():
    method, batch = build(SHAPES, WIDER)
    terms = method.intermediate(batch)
    assert list(terms) == ["hidden"]
    assert len(method.hidden.layers) == 2  # of equal widths too, as in the paper
    single = [build(teacher)[0] for teacher in (SHAPES, WIDER)]
    for alone, key in zip(single, method.hidden.layers, strict=True):
        alone.hidden.layers[key].load_state_dict(method.hidden.layers[key].state_dict())
    parts = []
    for alone, teacher in zip(single, batch.teachers, strict=True):
        batch.teachers = [teacher]
        parts.append(alone.intermediate(batch)["hidden"])
    torch.testing.assert_close(terms["hidden"], sum(parts))


@pytest.mark.parametrize(("epochs", "first"), [(2, 1), (3, 2), (13, 10), (26, 19)])
def test_the_epochs_are_shared_ten_to_three(epochs, first):
    assert [each.epochs for each in plan_stages(build(WIDER)[0], epochs, None)] == [first, epochs - first]
    assert build(WIDER, intermediate_epochs=4)[0].stages()[0].epochs == 4


@pytest.mark.parametrize("form", ["tapped", "scores"])
def test_padding_does_not_count(form):
    assert_padding_does_not_count(*build(WIDER, SHAPES, attention_form=form, **ALL))


def depths(student, teacher, **options):
    taps = TinyBERT.taps(TinyBERT.Config(**options))
    return [[layer(d, n) for d in side["stages"]] for side, n in ((taps.student, student), (taps.teacher, teacher))]


def test_the_layers_are_the_papers():
    assert depths(4, 12, student_blocks=4, teacher_blocks=12) == [[1, 2, 3, 4], [3, 6, 9, 12]]
    assert depths(6, 12, student_blocks=6, teacher_blocks=12) == [[1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12]]
    assert depths(4, 12, student_blocks=4) == [[1, 2, 3, 4], [3, 6, 9, 12]]
    for student, teacher in ((2, 12), (4, 12), (6, 24), (2, 2)):
        assert depths(student, teacher) == [[student // 2, student], [teacher // 2, teacher]]


def test_attention_is_tapped_at_the_depths_of_the_hidden_states():
    taps = TinyBERT.taps(TinyBERT.Config(student_blocks=2, teacher_blocks=12, attention=True))
    for side, count in ((taps.student, 2), (taps.teacher, 12)):
        depths = [each.removeprefix("attention:") for each in side["attention"]]
        assert all("." in each for each in depths)  # a number without is a layer's, and "1" the second
        assert [layer(float(each), count) for each in depths] == [count // 2, count]
    assert "attention" not in TinyBERT.taps(TinyBERT.Config()).student


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_embeddings": "a"}, "go together"),
        ({"student_layers": ["a"]}, r"tinybert\.student_layers"),
        ({"student_layers": ["a", "b"], "attention": True}, r"give tinybert\.student_attention too"),
        ({"student_attention": ["a"], "attention": True}, "differ in number"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        TinyBERT.taps(TinyBERT.Config(**options))


def test_other_numbers_of_heads_are_refused():
    with pytest.raises(InputError, match=r"as many heads, or set tinybert\.attention=false"):
        build({**WIDER, "attention": [(3, 4, 4), (3, 4, 4)]}, attention=True)
