from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F

from kdtool import Batch, Out, Setup
from kdtool_methods.rkd import RKD, angle_loss, distance_loss, sum_triplets
from tests.methods.pairs import assert_agrees, random
from tests.simulated import simulated

LOSSES = [distance_loss, angle_loss]


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def literal_distance(student, teacher):
    size = len(student)

    def relative(embedding):
        pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
        length = {(i, j): ((embedding[i] - embedding[j]) ** 2).sum().sqrt() for i, j in pairs}
        mean = sum(length.values()) / len(length)
        return {pair: value / mean for pair, value in length.items()}

    s, t = relative(student), relative(teacher)
    return sum(huber(s[pair] - t[pair]) for pair in s) / size**2


def literal_angle(student, teacher):
    size = len(student)

    def cosine(embedding, i, j, k):
        a, b = embedding[j] - embedding[i], embedding[k] - embedding[i]
        return (a * b).sum() / (a.norm() * b.norm())

    total = 0.0
    for i in range(size):
        others = [n for n in range(size) if n != i]  # a sample has no direction from itself: cosine 0 on both sides
        total = total + sum(huber(cosine(student, i, j, k) - cosine(teacher, i, j, k)) for j in others for k in others)
    return total / size**3


def usual_angle(student, teacher):
    """The code in common use, with all differences and angles at once."""

    def cosines(embedding):
        direction = F.normalize(embedding.unsqueeze(0) - embedding.unsqueeze(1), dim=2)
        return direction @ direction.mT

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize(("loss", "literal"), [(distance_loss, literal_distance), (angle_loss, literal_angle)])
def test_it_is_the_paper_s_equation(loss, literal, size):
    assert_agrees(loss, literal, random(size, 3), random(size, 5, seed=1))


def test_large_errors_are_linear():
    line = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    folded = torch.tensor([[0.0], [1.0], [0.2]], dtype=torch.float64, requires_grad=True)
    assert_agrees(angle_loss, literal_angle, folded, line)  # a cosine of -1 became 1
    clustered = torch.tensor([[0.0], [0.01], [9.0]], dtype=torch.float64, requires_grad=True)
    assert_agrees(distance_loss, literal_distance, clustered, line)


def test_derivatives_are_those_of_finite_differences():
    student, teacher = random(5, 3), random(5, 4, seed=1)
    for loss in LOSSES:
        assert torch.autograd.gradcheck(loss, (student, teacher))


@pytest.mark.parametrize("size", [128, 130, 257])
def test_any_number_of_tiles_gives_the_usual_value_and_gradient(size):
    assert_agrees(angle_loss, usual_angle, random(size, 4), random(size, 3, seed=1).detach().requires_grad_())


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_tiles(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        student, teacher = random(200, 4), random(200, 3, seed=1)
        first = torch.autograd.grad(angle_loss(student, teacher), student)[0]
        second = torch.autograd.grad(angle_loss(student, teacher), student)[0]
        assert torch.equal(first, second)
        assert torch.get_num_threads() == threads
        want = torch.autograd.grad(usual_angle(student, teacher), student)[0]
        torch.testing.assert_close(first, want, rtol=1e-9, atol=1e-12)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_single_precision_is_as_good_as_double(offset):
    student = (random(96, 32).detach() + offset).float()
    student[1] = student[0] * (1 + 1e-4)  # a near neighbour, and all far from the origin
    student, teacher = student.requires_grad_(), random(96, 48, seed=1).float()
    wide = student.detach().double().requires_grad_()
    for loss, literal in ((distance_loss, distance_loss), (angle_loss, usual_angle)):
        got, want = loss(student, teacher), literal(wide, teacher.double())
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(want.item(), rel=1e-6)
        (got_grad,), (want_grad,) = torch.autograd.grad(got, student), torch.autograd.grad(want, wide)
        assert got_grad.dtype == torch.float32
        assert (got_grad - want_grad).abs().max() < 1e-6 * want_grad.abs().max()


@pytest.mark.parametrize("loss", LOSSES)
def test_moving_turning_and_scaling_cost_nothing(loss):
    teacher = random(7, 5).detach()
    rotation = torch.linalg.qr(random(5, 5, seed=2).detach())[0]
    assert loss(teacher, teacher).item() < 1e-30
    assert loss(3 * teacher @ rotation + 7, teacher).item() < 1e-24
    assert loss(random(7, 5, seed=3), teacher).item() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_equal_embeddings_stay_finite(loss, size):
    student = torch.ones(size, 3, requires_grad=True)
    value = loss(student, random(size, 4, seed=1).float())
    (grad,) = torch.autograd.grad(value, student)
    assert math.isfinite(value.item())
    assert (grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_two_equal_samples_have_no_distance_and_no_direction(loss):
    student, teacher = random(6, 4).detach(), random(6, 4, seed=1).detach()
    student[3] = student[1]
    student.requires_grad_()
    value = loss(student, teacher)
    (grad,) = torch.autograd.grad(value, student)
    assert grad.isfinite().all()
    assert grad.abs().max() < 10
    if loss is angle_loss:
        assert value.item() == pytest.approx(usual_angle(student, teacher).item(), rel=1e-12)
    else:
        length = (student[:, None] - student[None]).norm(dim=2)
        other = (teacher[:, None] - teacher[None]).norm(dim=2)
        want = F.smooth_l1_loss(length / length[length > 0].mean(), other / other[other > 0].mean())
        assert value.item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_and_autocast_compute_in_fp32(loss):
    student, teacher = random(8, 16).detach().bfloat16().requires_grad_(), random(8, 32, seed=1).detach().bfloat16()
    want = loss(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(student, teacher)
    got.backward()
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert student.grad.dtype == torch.bfloat16
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_unfit_embeddings_are_refused(loss):
    with pytest.raises(ValueError, match="equal B"):
        loss(random(4, 3), random(5, 3))
    with pytest.raises(ValueError, match="equal B"):
        loss(random(4, 3, 2, 2), random(4, 3))


def test_compiled_is_eager():
    student, teacher = random(6, 4), random(6, 3, seed=1)

    def both(student, teacher):
        return distance_loss(student, teacher) + angle_loss(student * 2, teacher)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    got, want = compiled(student, teacher), both(student, teacher)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, student), torch.autograd.grad(want, student))


def build(teachers=1, **options):
    setup = Setup({"embedding": (4,)}, [{"embedding": (3 + n,)} for n in range(teachers)], 5, 100, 6)
    outs = [Out(random(6, 5, seed=n), {"embedding": random(6, 3 + n, seed=n).detach()}) for n in range(teachers)]
    student = Out(random(6, 5, seed=8), {"embedding": random(6, 4, seed=9)})
    batch = Batch(torch.zeros(6, dtype=torch.int64), torch.arange(6), student, outs, lambda logits: logits.sum())
    return RKD(RKD.Config(**options), setup), batch


def test_the_method_weighs_the_terms_and_sums_over_teachers():
    method, batch = build(teachers=2)
    student, (first, second) = batch.student.taps["embedding"], [out.taps["embedding"] for out in batch.teachers]
    terms = method.loss(batch)
    assert list(terms) == ["distance", "angle"]
    torch.testing.assert_close(terms["distance"], 25 * (distance_loss(student, first) + distance_loss(student, second)))
    torch.testing.assert_close(terms["angle"], 50 * (angle_loss(student, first) + angle_loss(student, second)))
    assert list(build(angle=0.0)[0].loss(batch)) == ["distance"]
    assert [stage.task_weight for stage in method.stages()] == [1.0]
    taps = RKD.taps(method.cfg)
    assert taps.student == taps.teacher == {"embedding": "embedding"}


MEASURE = """
    import resource, torch
    from kdtool_methods.rkd import angle_loss

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    torch.set_num_threads(2)
    def run(size):
        student, teacher = torch.randn(size, 512, requires_grad=True), torch.randn(size, 512)
        before = peak()
        angle_loss(student, teacher).backward()
        return peak() - before

    run(130)
    print(run(1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory that Linux reports, in KiB")
def test_the_angles_of_1024_samples_fit_into_128_mib():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(MEASURE)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 128


def test_few_operations_are_started_on_an_accelerator() -> None:
    torch.manual_seed(0)
    exact = "donot_use_mm_for_euclid_dist"
    sides = torch.randn(2, 300, 5, dtype=torch.float64)
    student_BB, teacher_BB = (torch.cdist(x, x, compute_mode=exact) for x in sides)
    loss, grad_BB = sum_triplets(student_BB, teacher_BB)
    with simulated() as device:
        found = sum_triplets(student_BB.to(device()), teacher_BB.to(device()))
        started = sum(device.operations.values())
        waits = dict(device.waits)
        found_loss, found_BB = (each.cpu() for each in found)
    assert abs(found_loss - loss) < 1e-12
    # A pair's gradient stands in either triangle.
    assert ((found_BB + found_BB.T) - (grad_BB + grad_BB.T)).abs().max() < 1e-12
    assert started < 500  # 564 at a batch of 512, views included; tiles as the CPU has them: 7,054
    assert waits == {"to device": 2}  # the two that are given here
