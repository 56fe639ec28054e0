"""PKD against Sun et al. (2019), Eq. 3 and 7, sample by sample."""

from __future__ import annotations

import pytest
import torch

from kdtool.errors import InputError
from kdtool.losses import softened_kl
from kdtool_methods.pkd import PKD, patient_loss
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import assert_padding_does_not_count, reached, sentences, setup_of
from tests.methods.test_tokens import layer


def literal(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        norms = sum(x**2 for x in s) ** 0.5, sum(x**2 for x in t) ** 0.5
        total = total + sum((a / norms[0] - b / norms[1]) ** 2 for a, b in zip(s, t, strict=True))
    return total / len(student)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_is_the_equation(size):
    assert_agrees(patient_loss, literal, random(size, 4), random(size, 4, seed=1))


def test_limits():
    state = random(3, 4)
    assert patient_loss(state, 5 * state).item() == pytest.approx(0, abs=1e-15)
    assert patient_loss(state, -state).item() == pytest.approx(4)
    for student in (torch.zeros(3, 4), torch.full((3, 4), 1e15)):
        student.requires_grad_()
        loss = patient_loss(student, state.detach().float())
        assert 0 <= loss.item() <= 4
        assert torch.autograd.grad(loss, student)[0].isfinite().all()
    half = patient_loss(state.bfloat16(), (2 * state).bfloat16())
    assert half.dtype == torch.float32
    with pytest.raises(ValueError, match="shapes differ"):
        patient_loss(state, state[:, :2])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_states_does_not_count(size):
    student, teacher = random(3, 4).detach(), random(3, 4, seed=1).detach()
    want = literal(student, teacher).item()
    loss = patient_loss((size * student).float(), (size * teacher).float())  # squares are zero or infinite in fp32
    assert loss.item() == pytest.approx(want, rel=1e-6)


STUDENT = {"stages": [(4, 3), (4, 3)]}
NARROW, WIDE = {"stages": [(4, 3), (4, 3)]}, {"stages": [(4, 6), (4, 6)]}
THREE = {"student_blocks": 3}


def build(*teachers, **options):
    torch.manual_seed(0)
    method = PKD(PKD.Config(**{**THREE, **options}), setup_of(STUDENT, *teachers)).double()
    return method, sentences(STUDENT, *teachers)


@pytest.mark.parametrize(("form", "share"), [("code", 1 / 768 / 2), ("paper", 1.0)])
def test_the_method_weighs_its_terms(form, share):
    method, batch = build(NARROW, form=form)
    (stage,) = method.stages()
    assert stage.task_weight == pytest.approx(0.3)
    assert not list(method.parameters())
    terms, student, teacher = stage.loss(batch), batch.student, batch.teachers[0]
    assert list(terms) == ["kl", "patient"]
    torch.testing.assert_close(terms["kl"], 0.7 * softened_kl(student.logits, teacher.logits, 10.0))
    pairs = zip(student.taps["stages"], teacher.taps["stages"], strict=True)
    want = sum(literal(ours[:, 0], theirs[:, 0]) for ours, theirs in pairs)
    torch.testing.assert_close(terms["patient"], 500 * share * want)
    assert reached(method, batch, method.loss) == {"logits", "stages.0", "stages.1"}


def test_on_bert_base_the_codes_form_is_the_mean_over_all_entries():
    shapes = {"stages": [(4, 768), (4, 768)]}
    batch = sentences(shapes, shapes)
    states = [torch.stack([tap[:, 0] for tap in out.taps["stages"]], 1) for out in (batch.student, *batch.teachers)]
    ours, theirs = (torch.nn.functional.normalize(state, dim=2) for state in states)
    method = PKD(PKD.Config(**THREE), setup_of(shapes, shapes))
    torch.testing.assert_close(method.loss(batch)["patient"], 500 * torch.nn.functional.mse_loss(ours, theirs))


def test_other_widths_and_several_teachers():
    method, batch = build(NARROW, WIDE)
    (project,) = method.project.layers.values()  # of both layers
    want = 0.0
    for number, teacher in enumerate(batch.teachers):
        for ours, theirs in zip(batch.student.taps["stages"], teacher.taps["stages"], strict=True):
            state = ours[:, 0] @ project.weight.T + project.bias if number else ours[:, 0]
            want = want + literal(state, theirs[:, 0])
    torch.testing.assert_close(method.loss(batch)["patient"], 500 / 768 / 2 * want)
    weights = {name for name, _ in method.named_parameters()}
    assert reached(method, batch, method.loss) == {"logits", "stages.0", "stages.1", *weights}


def test_padding_does_not_count():
    assert_padding_does_not_count(*build(NARROW, WIDE))


def test_a_map_is_averaged():
    shapes = {"stages": [(3, 2, 2), (3,)]}
    batch = sentences(shapes, shapes)
    batch.student.mask = None
    method = PKD(PKD.Config(form="paper", beta=1.0, **THREE), setup_of(shapes, shapes))
    (ours, plain), (theirs, other) = (out.taps["stages"] for out in (batch.student, *batch.teachers))
    want = literal(ours.mean((2, 3)), theirs.mean((2, 3))) + literal(plain, other)
    torch.testing.assert_close(method.loss(batch)["patient"], want)


def layers(student, teacher, **options):
    taps = PKD.taps(PKD.Config(**options))

    def number(depth, blocks):
        return blocks + depth + 1 if isinstance(depth, int) else layer(depth, blocks)

    return [[number(d, n) for d in side["stages"]] for side, n in ((taps.student, student), (taps.teacher, teacher))]


def test_the_layers_are_the_papers():
    six = {"student_blocks": 6, "teacher_blocks": 12}
    assert layers(6, 12, **six) == [[1, 2, 3, 4, 5], [2, 4, 6, 8, 10]]
    assert layers(6, 12, strategy="last", **six) == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert layers(3, 12, student_blocks=3) == [[1, 2], [4, 8]]
    assert layers(3, 12, student_blocks=3, strategy="last") == [[1, 2], [10, 11]]
    for teacher in (4, 12, 24):
        assert layers(2, teacher) == [[1], [teacher // 2]]
        assert layers(2, teacher, strategy="last") == [[1], [teacher - 1]]


def test_layers_may_be_named():
    taps = PKD.taps(PKD.Config(student_layers=["a"], teacher_layers=["b"]))
    assert (taps.student, taps.teacher) == ({"stages": ["a"]}, {"stages": ["b"]})
    with pytest.raises(InputError, match=r"pkd\.student_layers"):
        PKD.taps(PKD.Config(student_layers=["a", "b"]))
    with pytest.raises(InputError, match=r"student_blocks=6 is more"):
        PKD.taps(PKD.Config(student_blocks=6, teacher_blocks=4))
