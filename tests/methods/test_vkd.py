from __future__ import annotations

import pytest
import torch

from kdtool_methods.vkd import Projection, VkD, layer_normalised, orthogonal, projection_loss, whitened
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(form):
    def loss(student, teacher):
        values = []
        for x, y in zip(student.flatten(), teacher.flatten(), strict=True):
            gap = (x - y).abs()
            values.append(gap**2 if form == "squared" else gap**2 / 2 if gap < 1 else gap - 0.5)
        return sum(values) / len(values)

    return loss


@pytest.mark.parametrize("form", ["squared", "smooth"])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_the_paper_s_loss(form, batch):
    fast = lambda s, t: projection_loss(s, t, form)  # noqa: E731
    assert_agrees(fast, literal(form), random(batch, 4), random(batch, 4, seed=1))


def test_the_exponential_is_the_series():
    def series(raw):
        skew = torch.zeros_like(raw)
        for i in range(len(raw)):
            for j in range(i):
                skew[i, j], skew[j, i] = raw[i, j], -raw[i, j]
        term, found = torch.eye(len(raw), dtype=raw.dtype), torch.eye(len(raw), dtype=raw.dtype)
        for k in range(1, 60):
            term = term @ skew / k
            found = found + term
        return (found * torch.arange(1.0, 17).view(4, 4)).sum()

    assert_agrees(lambda raw: (orthogonal(raw) * torch.arange(1.0, 17).view(4, 4)).sum(), series, random(4, 4))


@pytest.mark.parametrize("by", ["exponential", "cayley"])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 30.0])
def test_the_projection_is_orthogonal(by, scale):
    matrix = orthogonal(scale * random(6, 6), by)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(6, dtype=torch.float64))
    if scale == 0.01:
        torch.testing.assert_close(matrix, orthogonal(scale * random(6, 6)), atol=1e-5, rtol=0)
    for sizes in ((3, 6), (6, 3), (4, 4)):
        weight = Projection(*sizes, by).double().weight()
        gram = weight.T @ weight if sizes[0] <= sizes[1] else weight @ weight.T
        assert weight.shape == sizes[::-1]
        torch.testing.assert_close(gram, torch.eye(min(sizes), dtype=torch.float64))


def test_targets_are_normalised():
    feat = (3 * random(20, 4) + 2).detach()
    normal = layer_normalised(feat)
    torch.testing.assert_close(normal.mean(1), torch.zeros(20, dtype=torch.float64))
    white = whitened(feat)
    torch.testing.assert_close(white.T @ white / 20, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(whitened(white), white)
    few = whitened(feat[:3])
    torch.testing.assert_close(torch.linalg.svdvals(few)[:2], torch.full((2,), 3.0, dtype=torch.float64).sqrt())
    assert whitened(feat[:1]).abs().max() == 0
    assert whitened(torch.zeros(3, 4)).abs().max() == 0


def test_limits():
    feat = random(2, 3)
    assert projection_loss(feat, feat) == 0
    assert projection_loss(feat.bfloat16(), -feat.bfloat16()).dtype == torch.float32
    assert projection_loss(10000 * feat.half(), -10000 * feat.half()).isfinite()
    assert orthogonal(random(3, 3).half()).dtype == torch.float32
    with pytest.raises(ValueError, match="shapes differ"):
        projection_loss(feat, feat[:, :2])
    with pytest.raises(ValueError, match="'squared' or 'smooth'"):
        projection_loss(feat, feat, "l1")
    with pytest.raises(ValueError, match="'exponential' or 'cayley'"):
        orthogonal(random(3, 3), "qr")


@pytest.mark.parametrize("normalise", ["layer", "whiten", "none"])
def test_the_method_sums_layers_and_teachers_and_trains_all_its_parts(normalise):
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(2, 2, 2), (9, 2)]])
    method, batch = VkD(VkD.Config(weight=2.0, normalise=normalise), setup).double(), batch_of(setup)
    change = {"layer": layer_normalised, "whiten": whitened, "none": lambda feat: feat}[normalise]
    want, projections = 0, iter(method.projections)
    for out in batch.teachers:
        for ours, theirs in zip(batch.student.taps["stages"], out.taps["stages"], strict=True):
            theirs = theirs.mean(1) if theirs.ndim == 3 else theirs.mean((2, 3))
            want = want + projection_loss(next(projections)(ours.mean((2, 3))), change(theirs))
    terms = method.loss(batch)
    assert list(terms) == ["projection"]
    torch.testing.assert_close(terms["projection"], 2 * want)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3)]}
    batch = sentences(shapes, {"stages": [(4, 6)]})
    method = VkD(VkD.Config(), setup_of(shapes["stages"], [[(4, 6)]])).double()
    want = method.loss(batch)["projection"]
    ours, theirs = (
        torch.stack([tap[row, :length].mean(0) for row, length in enumerate((4, 1, 3))])
        for tap in (batch.student.taps["stages"][0], batch.teachers[0].taps["stages"][0])
    )
    torch.testing.assert_close(want, projection_loss(method.projections[0](ours), layer_normalised(theirs)))
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["projection"], want)
