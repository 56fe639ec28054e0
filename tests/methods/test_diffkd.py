from __future__ import annotations

import math

import pytest
import torch

from kdtool_methods.diffkd import DiffKD, alphas, ddim_step, denoised, noised
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def test_the_schedule_is_linear():
    product, want = 1.0, []
    for time in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * time / 999)
        want.append(product)
    torch.testing.assert_close(alphas(), torch.tensor(want, dtype=torch.float64))


def test_noise_is_added_as_in_the_paper():
    share = [0.9, 0.25, 0.0]

    def literal(feat, noise):
        rows = [
            sum((math.sqrt(a) * x + math.sqrt(1 - a) * e) ** 3 for x, e in zip(f, n, strict=True))
            for a, f, n in zip(share, feat.flatten(1), noise.flatten(1), strict=True)
        ]
        return sum(rows)

    fast = lambda feat, noise: noised(feat, noise, torch.tensor(share, dtype=torch.float64)).pow(3).sum()  # noqa: E731
    assert_agrees(fast, literal, random(3, 2, 2, 2), random(3, 2, 2, 2, seed=1))


def test_denoising_is_ddim_from_the_middle_of_the_schedule():
    def predict(feat, time):
        return 0.1 * feat + time / 1000

    def literal(feat):
        alpha, total = alphas(), 0.0
        for value in feat.flatten():
            for time, after in ((400, 300), (300, 200), (200, 100), (100, 0), (0, None)):
                noise = 0.1 * value + time / 1000
                a, b = alpha[time], 1.0 if after is None else alpha[after]
                value = b**0.5 * (value - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise
            total = total + value**3
        return total

    assert_agrees(lambda feat: denoised(feat, predict, alphas(), 5).pow(3).sum(), literal, random(2, 3))


def test_the_true_noise_gives_the_feature_back():
    feat, noise, alpha = random(2, 3, 2, 2), random(2, 3, 2, 2, seed=1), alphas()
    noisy = noised(feat, noise, alpha[400].expand(2))
    torch.testing.assert_close(denoised(noisy, lambda *_: noise, alpha, 5), feat)
    torch.testing.assert_close(ddim_step(noisy, noise, alpha[400], alpha[400]), noisy)
    assert noised(feat.half(), noise.half(), alpha[:2]).dtype == torch.float32


def build(**options):
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (6, 3, 3)], [(6, 2, 2), (9, 8)]])
    return DiffKD(DiffKD.Config(**options), setup).double(), batch_of(setup)


@pytest.mark.parametrize("autoencoder", [True, False])
def test_the_method_sums_layers_and_teachers_and_trains_all_its_parts(autoencoder):
    torch.manual_seed(0)
    method, batch = build(weight=2.0, diffusion_weight=3.0, autoencoder_weight=4.0, autoencoder=autoencoder)
    terms, want, number = method.loss(batch), [0, 0, 0], 0
    assert list(terms) == ["denoised", "noise", "autoencoder"][: 3 if autoencoder else 2]
    for out in batch.teachers:
        for ours, theirs in zip(batch.student.taps["stages"], out.taps["stages"], strict=True):
            theirs = theirs.mT[..., None] if theirs.ndim == 3 else theirs
            losses = method.diffusions[number](ours, theirs, batch.index, 0, number)
            want, number = [a + b for a, b in zip(want, [*losses, 0][:3], strict=True)], number + 1
    for weight, term, each in zip((2, 3, 4), terms.values(), want, strict=False):
        torch.testing.assert_close(term, weight * each)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    # A bias before batch norm has no effect.
    assert {name for name in every - gradients(method, batch, method.loss) if not name.endswith(".bias")} == set()


def test_noise_follows_from_sample_and_epoch():
    method, batch = build()
    first = method.loss(batch)
    assert all(torch.equal(term, first[name]) for name, term in method.loss(batch).items())
    batch.epoch = 1
    assert not torch.equal(method.loss(batch)["noise"], first["noise"])


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3)]}
    batch = sentences(shapes, {"stages": [(4, 6)]})
    method = DiffKD(DiffKD.Config(), setup_of(shapes["stages"], [[(4, 6)]])).double()
    want = method.loss(batch)
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    for name, term in method.loss(batch).items():
        torch.testing.assert_close(term, want[name])
