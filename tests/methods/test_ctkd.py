"""CTKD against a literal float64 reading of Li et al. (2023), section 3."""

from __future__ import annotations

import math

import pytest
import torch

from kdtool.errors import InputError
from kdtool.losses import softened_kl
from kdtool_methods.ctkd import CTKD, Temperature, curriculum, reversed_gradient, tempered_kl
from kdtool_methods.dkd import decoupled_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def softmax(row, temperature):
    powers = [(z / temperature).exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher, temperature):
    total = 0.0
    for row, (s, t) in enumerate(zip(student, teacher, strict=True)):
        tau = temperature.flatten()[row if temperature.numel() > 1 else 0]
        p, q = softmax(t, tau), softmax(s, tau)
        total = total + tau**2 * sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("size", "shape"), [(4, (1,)), (4, (4, 1)), (1, (1, 1)), (2, (2, 1))])
def test_value_and_gradient_of_the_temperature_too(size, shape):
    temperature = (1 + random(*shape, seed=2).detach().abs()).requires_grad_()
    assert_agrees(tempered_kl, literal, random(size, 5), random(size, 5, seed=1), temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_stay_finite(dtype):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    temperature = torch.tensor([[1.0], [21.0]], requires_grad=True)
    loss = tempered_kl(student, student.detach().flip(0), temperature)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (student, temperature)))


def test_the_gradient_is_reversed_and_the_value_kept():
    x = random(3)
    assert torch.equal(reversed_gradient(x, 0.3), x)
    torch.testing.assert_close(torch.autograd.grad(reversed_gradient(x, 0.3).sum(), x)[0], torch.full_like(x, -0.3))


def test_the_curriculum_is_the_paper_s():
    def paper(epoch, loops):
        return 0 + 0.5 * (1 - 0) * (1 + math.cos((1 + min(epoch, loops) / loops) * math.pi))

    assert [curriculum(epoch / 10) for epoch in range(13)] == pytest.approx([paper(epoch, 10) for epoch in range(13)])
    setup = setup_of([], [[]])
    batch = batch_of(setup)

    def strength(epochs, epoch, progress):
        batch.epoch, batch.progress = epoch, progress
        return CTKD(CTKD.Config(epochs=epochs), setup).strength(batch)

    assert [strength(4, e, 0.9) for e in range(5)] == pytest.approx([paper(e, 4) for e in range(1, 6)])
    assert [strength(None, 0, e / 240) for e in (0, 4, 9, 239)] == pytest.approx([paper(e, 10) for e in (1, 5, 10, 10)])


@pytest.mark.parametrize("form", ["global", "instance"])
def test_student_and_temperature_pull_apart(form):
    setup = setup_of([], [[]])
    method = CTKD(CTKD.Config(form=form, epochs=1), setup).double()
    batch = batch_of(setup, labels=torch.full((4,), -1))
    student, teacher = batch.student.logits, batch.teachers[0].logits
    (stage,) = method.stages()
    assert stage.task_weight == 0.1
    terms = stage.loss(batch)
    assert list(terms) == ["soft"]
    plain = 0.9 * tempered_kl(student, teacher, method.temperature(student, teacher, -1.0))
    torch.testing.assert_close(terms["soft"], plain)
    parameters = list(method.parameters())
    got, want = (
        torch.autograd.grad(terms["soft"], [student, *parameters]),
        torch.autograd.grad(plain, [student, *parameters]),
    )
    for number, (ours, forward) in enumerate(zip(got, want, strict=True)):
        torch.testing.assert_close(ours, forward if number == 0 else -forward)
    assert gradients(method, batch, stage.loss) == {"logits", *(name for name, _ in method.named_parameters())}


def test_the_temperature_starts_as_in_the_code_and_stays_in_its_range():
    first = Temperature(5, 1.0, 20.0, False)(random(2, 5), random(2, 5), 1.0)
    assert first.item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    each = Temperature(5, 1.0, 20.0, True)(1e4 * random(2, 5).float(), random(2, 5).float(), 1.0)
    assert each.shape == (2, 1)
    assert ((each >= 1) & (each <= 21)).all()


def test_several_teachers_are_averaged():
    setup = setup_of([], [[], []])
    method, batch = CTKD(CTKD.Config(span=0.0, start=3.0), setup), batch_of(setup)
    want = sum(softened_kl(batch.student.logits, out.logits, 3.0) for out in batch.teachers) / 2
    torch.testing.assert_close(method.loss(batch)["soft"], 0.9 * want)


def test_dkd_with_a_learned_temperature():
    setup = setup_of([], [[]])
    method = CTKD(CTKD.Config(response="dkd", alpha=2.0, beta=3.0), setup).double()
    batch = batch_of(setup, labels=torch.tensor([1, -1, 0, 4]))
    (stage,) = method.stages()
    assert stage.task_weight == 1
    temperature = 1 + 20 / (1 + math.exp(-1))
    want = decoupled_loss(batch.student.logits, batch.teachers[0].logits, batch.labels, 2.0, 3.0, temperature)
    torch.testing.assert_close(stage.loss(batch)["soft"], want)
    assert gradients(method, batch, stage.loss) == {"logits", "temperature.prediction"}
    batch.labels = torch.full((4, 5), 0.2)
    with pytest.raises(InputError, match="one class a sample"):
        stage.loss(batch)
    with pytest.raises(InputError, match=r"ctkd\.form"):
        CTKD(CTKD.Config(response="dkd", form="instance"), setup)
