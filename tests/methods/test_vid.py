from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kdtool_methods.vid import VID, Gaussian, gaussian_nll
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def literal(mean, target, variance):
    values = []
    for m, t in zip(mean, target, strict=True):
        for channel, var in enumerate(variance):
            for x, y in zip(m[channel].reshape(-1), t[channel].reshape(-1), strict=True):
                values.append(0.5 * (var.log() + (y - x) ** 2 / var))
    return sum(values) / len(values)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (3, 4), (2, 3, 4)], ids=["maps", "vectors", "sequences"])
def test_it_is_the_paper_s_equation(shape):
    variance = (random(shape[1], seed=2).detach().abs() + 0.1).requires_grad_()
    assert_agrees(gaussian_nll, literal, random(*shape), random(*shape, seed=1), variance)


def test_it_is_the_density_of_torch_s_gaussian():
    mean, target, variance = random(2, 3, 2, 2), random(2, 3, 2, 2, seed=1), random(3, seed=2).abs() + 0.1
    density = torch.distributions.Normal(mean, variance.sqrt().view(1, 3, 1, 1)).log_prob(target)
    torch.testing.assert_close(gaussian_nll(mean, target, variance), -density.mean() - 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(
        gaussian_nll(mean, target, variance.view(1, 3, 1, 1)), gaussian_nll(mean, target, variance)
    )


def test_equal_features_leave_the_variance():
    feat = random(2, 3, 2, 2)
    assert gaussian_nll(feat, feat, torch.ones(3, dtype=torch.float64)).item() == 0


def test_half_precision_computes_in_fp32():
    feat = random(2, 3, 2, 2).bfloat16()
    loss = gaussian_nll(feat, feat * 2, torch.ones(3))
    assert loss.dtype == torch.float32
    assert loss >= 0
    assert loss.isfinite()


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        gaussian_nll(random(2, 3), random(2, 4), torch.ones(3))


@pytest.mark.parametrize(("variance", "eps"), [(5.0, 1e-5), (0.001, 1e-5), (80.0, 1e-6)])
def test_the_variance_starts_where_it_should(variance, eps):
    gaussian = Gaussian((3, 4, 4), (5, 4, 4), variance, eps)
    torch.testing.assert_close(gaussian.variance(), torch.full((5,), variance))
    with torch.no_grad():
        gaussian.raw_variance.fill_(-1000.0)
    torch.testing.assert_close(gaussian.variance(), torch.full((5,), eps))


@pytest.mark.parametrize(("student", "teacher"), [((3, 4, 4), (5, 2, 2)), ((3, 2, 4), (5, 4, 2)), ((3, 4, 4), (5,))])
def test_a_layer_pools_the_larger_map(student, teacher):
    gaussian = Gaussian(student, teacher, 5.0, 1e-5).double()
    s, t = random(2, *student), random(2, *teacher, seed=1)
    size = (2, 2) if len(teacher) == 3 else (1, 1)
    mean = gaussian.regressor(F.adaptive_avg_pool2d(s, size))
    target = F.adaptive_avg_pool2d(t if t.ndim == 4 else t[:, :, None, None], size)
    torch.testing.assert_close(gaussian(s, t), gaussian_nll(mean, target, gaussian.variance()))


def test_the_method_sums_layers_and_teachers_and_trains_all_its_parts():
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(6, 2, 2), (7,)]])
    method, batch = VID(VID.Config(weight=2.0), setup).double(), batch_of(setup)
    terms = method.loss(batch)
    stages, teachers = batch.student.taps["stages"], batch.teachers
    parts = [method.gaussians[2 * t + i](stages[i], teachers[t].taps["stages"][i]) for t in (0, 1) for i in (0, 1)]
    assert list(terms) == ["nll"]
    torch.testing.assert_close(terms["nll"], 2 * sum(parts))
    want = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == want


def test_its_state_makes_a_round_trip():
    setup = setup_of([(2, 4, 4)], [[(4, 4, 4)]])
    first, second = VID(VID.Config(), setup).double(), VID(VID.Config(variance=1.0), setup).double()
    batch = batch_of(setup)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.loss(batch)["nll"], second.loss(batch)["nll"])


def test_training_lowers_it():
    torch.manual_seed(0)
    setup = setup_of([(2, 4, 4)], [[(4, 4, 4)]])
    method, batch = VID(VID.Config(), setup).double(), batch_of(setup)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    before = method.loss(batch)["nll"].item()
    for _ in range(100):
        optimizer.zero_grad()
        method.loss(batch)["nll"].backward()
        optimizer.step()
    assert method.loss(batch)["nll"].item() < before - 0.3
    assert (method.gaussians[0].variance() < 4).all()
