from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from kdtool import option
from kdtool.errors import InputError
from kdtool.testing import check_names, parametrize_with_checks
from kdtool_methods.at import AT, attention_loss, by_image, gradient_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.running import CHEAP, TWINS, call
from tests.sampling import every


def largest(values):
    best = values[0]
    for value in values:
        best = value if value > best else best
    return best


def literal(p, form, over="sum"):
    def attention(sample):
        channels, height, width = sample.shape
        flat = [
            (sum if over == "sum" else largest)([sample[c, y, x].abs() ** p for c in range(channels)])
            for y in range(height)
            for x in range(width)
        ]
        norm = sum(value**2 for value in flat) ** 0.5
        return [value / norm for value in flat]

    def loss(student, teacher):
        total, entries = 0.0, 0
        for s, t in zip(student, teacher, strict=True):
            gaps = [a - b for a, b in zip(attention(s), attention(t), strict=True)]
            entries += len(gaps)
            if form == "code":
                total = total + sum(gap**2 for gap in gaps)
            else:
                total = total + sum(gap.abs() ** p for gap in gaps) ** (1 / p) / 2
        return total / (entries if form == "code" else len(student))

    return loss


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("size", [2, 3])
def test_it_is_the_equation(p, form, size):
    fast = lambda s, t: attention_loss(s, t, p, form)  # noqa: E731
    assert_agrees(fast, literal(p, form), random(size, 3, 2, 3), random(size, 5, 2, 3, seed=1))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_largest_channel_may_stand_for_all(p, form):
    fast = lambda s, t: attention_loss(s, t, p, form, over="max")  # noqa: E731
    assert_agrees(fast, literal(p, form, "max"), random(3, 3, 2, 3), random(3, 5, 2, 3, seed=1))
    with pytest.raises(ValueError, match="'sum' or 'max'"):
        attention_loss(random(2, 3, 2, 2), random(2, 3, 2, 2), over="mean")


def test_the_method_passes_the_mapping_on():
    setup = setup_of([(3, 4, 4)], [[(5, 4, 4)]])
    batch = batch_of(setup)
    method = AT(AT.Config(layers=[1.0], over="max", weight=3.0), setup)
    want = attention_loss(batch.student.taps["stages"][0], batch.teachers[0].taps["stages"][0], 2.0, "code", "max")
    torch.testing.assert_close(method.loss(batch)["attention"], 3 * want)


@pytest.mark.parametrize(("student", "teacher"), [((3, 4, 4), (5, 2, 2)), ((3, 2, 4), (5, 4, 2)), ((6, 3), (4, 7))])
def test_the_larger_map_is_pooled(student, teacher):
    student, teacher = random(2, *student), random(2, *teacher, seed=1)

    def pooled(student, teacher):
        maps = [x if x.ndim == 4 else x.transpose(1, 2).unsqueeze(3) for x in (student, teacher)]
        size = [min(a, b) for a, b in zip(maps[0].shape[2:], maps[1].shape[2:], strict=True)]
        return literal(2, "code")(*(F.adaptive_avg_pool2d(x, size) for x in maps))

    assert_agrees(attention_loss, pooled, student, teacher)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_limits(form):
    feat = random(3, 4, 2, 2)
    same = attention_loss(feat, feat.detach(), form=form)
    assert same.item() == 0
    assert torch.autograd.grad(same, feat)[0].isfinite().all()
    assert attention_loss(5 * feat[:, :2].repeat(1, 3, 1, 1), feat[:, :2], form=form).item() < 1e-15
    for student in (torch.zeros(3, 4, 2, 2), torch.ones(3, 4, 2, 2), 1e4 * torch.ones(3, 4, 2, 2)):
        student.requires_grad_()
        loss = attention_loss(student, random(3, 2, 2, 2, seed=1).float(), form=form)
        (grad,) = torch.autograd.grad(loss, student)
        assert math.isfinite(loss.item())
        assert grad.isfinite().all()
        assert grad.abs().max() < 100


def test_half_precision_and_autocast_compute_in_fp32():
    student, teacher = random(4, 3, 4, 4).bfloat16(), random(4, 5, 2, 2, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = attention_loss(student, teacher)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(attention_loss(student.double(), teacher.double()).item(), rel=1e-5)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'code' or 'paper'"):
        attention_loss(random(2, 3, 2, 2), random(2, 3, 2, 2), form="mean")


def build(**options):
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(6, 2, 2), (5, 7)]])
    return AT(AT.Config(**options), setup), batch_of(setup)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_method_weighs_and_sums_layers_and_teachers(form):
    method, batch = build(form=form, layers=[0.5, 1.0])
    stages, want = batch.student.taps["stages"], 0
    for teacher, positions in zip(batch.teachers, ((16, 4), (4, 2)), strict=True):
        for student, feat, count in zip(stages, teacher.taps["stages"], positions, strict=True):
            weight = 1000 * count / 49 if form == "code" else 1000 / 49
            want = want + weight * attention_loss(student, feat, form=form)
    terms = method.loss(batch)
    assert list(terms) == ["attention"]
    torch.testing.assert_close(terms["attention"], want)
    assert gradients(method, batch, method.loss) == {"stages.0", "stages.1"}
    assert build(form=form, layers=[0.5, 1.0], weight=3.0)[0].weights == [{0: 3.0, 1: 3.0}] * 2


def test_the_default_weight_is_the_authors_on_maps_of_their_size():
    setup = setup_of([(2, 7, 7), (2, 16, 16), (2, 7, 7)], [[(2, 8, 8), (2, 16, 16), (2, 2, 2)]])
    names = {"student_layers": ["a", "b", "c"], "teacher_layers": ["d", "e", "f"]}
    assert AT(AT.Config(**names), setup).weights == [pytest.approx({0: 1000, 1: 1000, 2: 1000 * 4 / 49})]
    paper = AT(AT.Config(form="paper", **names), setup)
    assert paper.weights == [pytest.approx({0: 1000 / 49, 1: 1000 / 256, 2: 1000 / 49})]


def test_small_maps_are_left_out_unless_chosen_or_there_is_no_other():
    setup = setup_of([(2, 8, 8), (3, 4, 4), (4, 2, 2), (5, 1, 1)], [[(4, 8, 8), (4, 4, 4), (4, 2, 2), (4, 1, 1)]])
    assert list(AT(AT.Config(), setup).weights[0]) == [0, 1]
    assert list(AT(AT.Config(layers=[0.25, 0.5, 0.75, 1.0]), setup).weights[0]) == [0, 1, 2, 3]
    vit = setup_of([(3, 2, 2)] * 4, [[(6, 3, 3), (6, 2, 2), (6, 2, 2), (6, 2, 2)]])
    assert list(AT(AT.Config(), vit).weights[0]) == [3]


def test_layers_pair_by_depth_or_by_name():
    assert AT.taps(AT.Config()).student == {"stages": [0.25, 0.5, 0.75, 1.0]}
    taps = AT.taps(AT.Config(student_layers=["a"], teacher_layers=["b"]))
    assert (taps.student, taps.teacher) == ({"stages": ["a"]}, {"stages": ["b"]})


def test_maps_of_one_position_are_refused_unless_others_are_larger():
    with pytest.raises(InputError, match=r"at\.layers"):
        AT(AT.Config(), setup_of([(2, 1, 1)], [[(4, 3, 3)]]))
    AT(AT.Config(), setup_of([(2, 2, 2), (2, 1, 1)], [[(4, 3, 3), (4, 1, 1)]]))


# --- the gradient by the image ------------------------------------------------------------------------------------


def literal_gradients(weight, image, labels):
    """The gradient of each sample's cross-entropy by its image, for logits that are a linear map of it."""
    found = []
    for sample, label in zip(image, labels, strict=True):
        powers = [sum(w * x for w, x in zip(row, sample, strict=True)).exp() for row in weight]
        shares = [power / sum(powers) for power in powers]
        known = range(len(weight)) if label >= 0 else ()
        found.append([sum((shares[k] - float(k == label)) * weight[k][d] for k in known) for d in range(len(sample))])
    return found


@pytest.mark.parametrize("labels", [[0, 2, 1, 2], [3, -1, 0, 0]])
def test_the_gradient_form_is_the_paper_s_equation(labels):
    image = random(4, 6).detach().requires_grad_()

    def fast(student, teacher):
        found = [by_image(image @ weight.T, image, torch.tensor(labels), True) for weight in (student, teacher)]
        return gradient_loss(*found)

    def literal(student, teacher):
        total = 0.0
        each = [literal_gradients(weight, image.detach(), labels) for weight in (student, teacher)]
        for ours, theirs, label in zip(*each, labels, strict=True):
            if label >= 0:
                total = total + sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) ** 0.5 / 2
        return total / len(labels)

    assert_agrees(fast, literal, random(4, 6, seed=1), random(4, 6, seed=2))


def test_shares_of_classes_count_as_labels_do():
    image, weight, labels = random(3, 6), random(4, 6, seed=1), torch.tensor([0, 3, 1])
    shares = F.one_hot(labels, 4).double()
    torch.testing.assert_close(
        by_image(image @ weight.T, image, shares), by_image(image @ weight.T, image, labels), rtol=1e-12, atol=1e-12
    )


def test_equal_gradients_are_no_trouble():
    own = random(2, 3, 4, 4)
    loss = gradient_loss(own, own.detach())
    assert loss == 0
    assert torch.autograd.grad(loss, own)[0].isfinite().all()


def test_layers_have_no_meaning_for_it():
    with pytest.raises(InputError, match="has no layers"):
        AT.taps(AT.Config(attention="gradient", layers=[1.0]))


class ByGradient(AT):
    """AT whose defaults are the gradient's."""

    @dataclass
    class Config(AT.Config):
        attention: str = option("gradient", "as at has it", choices=("activation", "gradient"))


CANNOT = {
    "compiled": "what is compiled cannot be differentiated twice; the engine goes on without",
    "replay": "no kept output can be differentiated by an image; the teacher runs live",
}


CONFORMS = parametrize_with_checks(ByGradient, checks=[name for name in check_names() if name not in CANNOT])


@pytest.mark.parametrize("check", every(4, CONFORMS.args[1]))
def test_it_conforms(check):
    check()


@pytest.mark.slow
def test_a_run_differentiates_live_and_says_so(tmp_path):
    folder = tmp_path / "run"
    run = ["run", *TWINS, *CHEAP, "--method", "at", "at.attention=gradient", "--epochs", "1", "--out", folder]
    done = call(*run, "cache.mode=build", "data.views=1", "data.val_fraction=0", "--batch-size", "40", folder=folder)
    assert done.code == 0, done.err
    assert "the teacher runs live, for the cache does not hold image" in done.out + done.err
    assert done.log()[-1]["train"]["attention"] > 0
    assert 0 < done.log()[-1]["gradient_share"]["attention"] < 1


@pytest.mark.slow
def test_it_cannot_be_joined_with_relations_in_micro_batches(tmp_path):
    run = ["run", *TWINS, *CHEAP, "--method", "at+rkd", "at.attention=gradient", "--epochs", "1"]
    done = call(*run, "train.accumulate=2", "--out", tmp_path / "run")
    assert done.code == 2
    assert "train.accumulate=1" in done.err


def test_sentences_have_no_such_gradient(tmp_path):
    done = call("run", "--task", "text", "--method", "at", "at.attention=gradient", "--out", tmp_path / "run")
    assert done.code == 2
    assert "tokens have no gradient" in done.err
