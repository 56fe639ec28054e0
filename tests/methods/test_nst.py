from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool.errors import InputError
from kdtool_methods.nst import DEPTHS, KERNELS, NST, selectivity_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def literal(student, teacher, kernel="polynomial"):
    def patterns(sample):
        flat = [channel.reshape(-1) for channel in sample]
        return [[v / sum(u**2 for u in x) ** 0.5 for v in x] for x in flat]

    def apart(x, y):
        return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))

    def k(x, y, sigma):
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        return {
            "polynomial": lambda: dot**2,
            "linear": lambda: dot,
            "gaussian": lambda: (-apart(x, y) / (2 * sigma)).exp(),
        }[kernel]()

    values = []
    for s, t in zip(map(patterns, student), map(patterns, teacher), strict=True):
        sigma = (sum(apart(x, y) for x in s for y in t) / (len(s) * len(t))).detach()

        def mean_kernel(xs, ys, sigma=sigma):
            return sum(k(x, y, sigma) for x in xs for y in ys) / (len(xs) * len(ys))

        values.append(mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 2, 3, 2), (2, 3, 3, 2)), ((3, 5, 2, 2), (3, 8, 2, 2)), ((2, 3, 2, 2), (2, 3, 2, 2))],
    ids=["more positions than channels", "more channels than positions", "as many"],
)
def test_it_is_the_paper_s_equation(student, teacher):
    for kernel in KERNELS:
        fast = lambda s, t, kernel=kernel: selectivity_loss(s, t, kernel)  # noqa: E731
        slow = lambda s, t, kernel=kernel: literal(s, t, kernel)  # noqa: E731
        assert_agrees(fast, slow, random(*student), random(*teacher, seed=1))


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_the_other_kernels_at_their_limits(kernel):
    feat = random(2, 3, 2, 2)
    loss = selectivity_loss(feat, feat.detach(), kernel)
    assert loss.abs().item() < 1e-15
    assert torch.autograd.grad(loss, feat)[0].abs().max() < 1e-9
    shuffled = selectivity_loss(feat, feat.detach().flip(1), kernel)  # the order of channels says nothing
    assert shuffled.abs().item() < 1e-15
    for student in (torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)):
        student.requires_grad_()
        for teacher in (torch.ones(2, 4, 2, 2), random(2, 4, 2, 2).float()):
            value = selectivity_loss(student, teacher.detach(), kernel)
            (grad,) = torch.autograd.grad(value, student)
            assert value.isfinite()
            assert grad.isfinite().all()
    with pytest.raises(ValueError, match="polynomial, linear, gaussian"):
        selectivity_loss(feat, feat, "cubic")


def test_the_method_passes_the_kernel_on():
    setup = setup_of([(3, 4, 4)], [[(5, 4, 4)]])
    batch = batch_of(setup)
    want = selectivity_loss(batch.student.taps["stages"][0], batch.teachers[0].taps["stages"][0], "gaussian")
    got = NST(NST.Config(kernel="gaussian", layers=[1.0], weight=3.0), setup).loss(batch)["selectivity"]
    torch.testing.assert_close(got, 3 * want)


@pytest.mark.parametrize("channels", [2, 40])
def test_equal_maps_cost_nothing(channels):
    student = random(2, channels, 3, 3)
    loss = selectivity_loss(student, student.detach())
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-14
    doubled = torch.cat([student, student], dim=1)  # the same distribution of patterns
    assert selectivity_loss(doubled, student).item() == pytest.approx(0, abs=1e-15)


def test_the_larger_map_is_pooled():
    student, teacher = random(2, 3, 4, 2), random(2, 3, 2, 4, seed=1)
    want = selectivity_loss(F.adaptive_avg_pool2d(student, 2), F.adaptive_avg_pool2d(teacher, 2))
    torch.testing.assert_close(selectivity_loss(student, teacher), want)


def test_silent_and_constant_channels_stay_finite():
    student = random(2, 4, 3, 3).detach().float()
    student[:, 0], student[:, 1] = 0, 5
    for dtype in (torch.float32, torch.bfloat16):
        leaf = student.to(dtype).requires_grad_()
        loss = selectivity_loss(leaf, torch.zeros(2, 3, 3, 3))
        grad = torch.autograd.grad(loss, leaf)[0]
        assert loss.isfinite()
        assert loss >= 0
        assert grad.isfinite().all()
        assert grad[:, 0].abs().sum() == 0


@pytest.mark.parametrize(("channels", "side"), [(4, 8), (64, 3)])
def test_half_precision_and_autocast_compute_in_fp32(channels, side):
    student, teacher = random(2, channels, side, side).detach(), random(2, channels, side, side, seed=1).detach()
    want = selectivity_loss(student.bfloat16().double(), teacher.bfloat16().double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = selectivity_loss(student.bfloat16(), teacher.bfloat16())
        same = selectivity_loss(student.bfloat16(), student.bfloat16())
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=1e-4)
    assert 0 <= same < 1e-6


def test_the_method_compares_the_deepest_pair_with_enough_positions():
    cnn = [(4, 16, 16), (6, 8, 8), (8, 4, 4), (8, 2, 2)]
    vit = [(5, 4, 4)] * 4
    setup = setup_of(cnn, [cnn, vit])
    method, batch = NST(NST.Config(weight=3.0), setup), batch_of(setup)
    assert method.pairs == [[2], [2]]
    terms = method.loss(batch)
    want = 3 * sum(selectivity_loss(batch.student.taps["stages"][2], t.taps["stages"][2]) for t in batch.teachers)
    assert list(terms) == ["selectivity"]
    torch.testing.assert_close(terms["selectivity"], want)
    assert gradients(method, batch, method.loss) == {"stages.2"}
    assert NST.taps(NST.Config()).student == {"stages": list(DEPTHS)}


def test_the_method_falls_back_to_the_pair_with_most_positions():
    small = setup_of([(2, 3, 3), (2, 2, 2), (2, 1, 1), (2, 1, 1)], [[(2, 2, 2)] * 4])
    assert NST(NST.Config(), small).pairs == [[1]]


def test_chosen_layers_are_all_compared():
    cfg = NST.Config(layers=[0.5, 1.0])
    assert NST.taps(cfg).teacher == {"stages": [0.5, 1.0]}
    assert NST(cfg, setup_of([(2, 4, 4), (2, 2, 2)], [[(3, 4, 4), (3, 2, 2)]])).pairs == [[0, 1]]
    named = NST.taps(NST.Config(student_layers=["a", "b"], teacher_layers=["c", "d"]))
    assert (named.student, named.teacher) == ({"stages": ["a", "b"]}, {"stages": ["c", "d"]})
    with pytest.raises(InputError, match="pair"):
        NST.taps(NST.Config(student_layers=["a"]))


def test_maps_of_one_position_are_refused():
    with pytest.raises(InputError, match=r"nst\.layers"):
        NST(NST.Config(layers=[1.0]), setup_of([(4, 1, 1)], [[(8, 2, 2)]]))
