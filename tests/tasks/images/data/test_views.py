"""Views: evaluation is timm's to the bit, training's choices follow from (view_seed, view, row) alone."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdtool.engine import tree
from kdtool.errors import InputError
from kdtool.randomness import uniforms
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data
from tests.simulated import simulated
from tests.tasks.images.data.pictures import picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {"crop": "none", "flip": 0.0}


def _views(
    size: int = 32, train: bool = True, grey: bool = False, native: tuple[int, int] = (32, 32), **cfg: object
) -> Views:
    return Views(Data(**cfg), size, MEAN, STD, grey=grey, native_size=native, train=train)  # type: ignore[arg-type]


def _noise(count: int, size: int = 32) -> Tensor:
    draw = np.random.Generator(np.random.Philox(count))
    return torch.from_numpy(draw.integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize(("width", "height"), [(8, 8), (28, 28), (50, 37), (37, 50), (300, 200)])
@pytest.mark.parametrize("size", [32, 61])
def test_evaluation_gives_what_timm_gives(crop: float, width: int, height: int, size: int) -> None:
    from timm.data import create_transform

    theirs = create_transform((3, size, size), is_training=False, interpolation="bicubic", mean=MEAN, std=STD,
                              crop_pct=crop)  # fmt: skip
    ours = _views(size, train=False, eval_crop=crop)
    image = picture(3, (width, height))
    pixels = ours.host(image, 7, 0)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, size, size)
    assert torch.equal(ours.device(pixels[None], torch.tensor([7]), 0)[0], theirs(image))


def test_normalising_is_literal() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    found = _views(train=False).device(pixels, torch.tensor([0]), 0)
    assert found.dtype == torch.float32
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert found[0, :, 5, 5].tolist() == pytest.approx(expected, abs=1e-6)


def test_evaluation_ignores_every_training_option() -> None:
    wild = _views(train=False, crop="resized", flip=1.0, color_jitter=1.0, erase=1.0, mixup=1.0, cutmix=1.0,
                  auto_augment="rand-m9")  # fmt: skip
    pixels = _noise(5)
    assert torch.equal(wild.device(pixels, torch.arange(5), 0), _normalised(pixels))
    assert wild.fixed
    assert not wild.mixing.on


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_defaults_follow_the_images() -> None:
    small, large = _views(native=(32, 32)), _views(224, native=(300, 500))
    assert (small.crop, small.padding, small.flip) == ("pad", 4, 0.5)
    assert (large.crop, large.padding, large.flip) == ("resized", 0, 0.5)
    assert _views(224, native=(64, 64)).crop == "pad"  # small images stay whole, however large they are made
    assert _views(64, native=(65, 20)).crop == "resized"
    assert _views(grey=True).flip == 0
    assert _views(grey=True, flip=0.3).flip == 0.3
    assert _views(crop_padding=2).padding == 2


def test_pixels_can_be_kept_only_where_no_view_changes_them() -> None:
    assert _views(crop="pad", color_jitter=0.5, erase=0.5, mixup=1.0).fixed
    assert not _views(crop="resized").fixed
    assert not _views(crop="none", auto_augment="rand-m9").fixed


# --- functions of the sample ------------------------------------------------------------------------------------------

EVERYTHING = {"crop": "pad", "color_jitter": 0.4, "erase": 0.5, "flip": 0.5}


def test_a_sample_alone_is_the_same_as_among_many() -> None:
    views, pixels, rows = _views(**EVERYTHING), _noise(37), torch.arange(100, 137)
    many = views.device(pixels, rows, 3)
    for at in (0, 17, 36):
        assert torch.equal(views.device(pixels[at : at + 1], rows[at : at + 1], 3)[0], many[at])
    assert torch.equal(views.device(pixels.flip(0), rows.flip(0), 3), many.flip(0))


def test_a_large_sample_alone_is_the_same_as_among_many_on_several_threads() -> None:
    views, pixels, rows = _views(224, **EVERYTHING), _noise(5, 224), torch.arange(5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        many = views.device(pixels, rows, 3)
        assert torch.equal(torch.cat([views.device(pixels[i : i + 1], rows[i : i + 1], 3) for i in range(5)]), many)
        torch.set_num_threads(1)
        assert torch.equal(views.device(pixels, rows, 3), many)
    finally:
        torch.set_num_threads(threads)


def test_views_repeat_whatever_was_drawn_before_and_differ_by_view_row_and_seed() -> None:
    views, pixels = _views(**EVERYTHING), _noise(1).expand(64, -1, -1, -1)
    first = views.device(pixels, torch.arange(64), 0)
    torch.rand(1000)
    random.random()
    assert torch.equal(views.device(pixels, torch.arange(64), 0), first)

    def share_alike(other: Tensor) -> float:
        return (first == other).flatten(1).all(1).double().mean().item()

    assert share_alike(views.device(pixels, torch.arange(64), 1)) < 0.1
    assert share_alike(views.device(pixels, torch.arange(1, 65), 0)) < 0.1
    assert share_alike(_views(view_seed=1, **EVERYTHING).device(pixels, torch.arange(64), 0)) < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_evaluation_the_same_bits() -> None:
    pixels, rows = _noise(64), torch.arange(64)
    for views in (_views(train=False), _views(crop="pad", erase=0.5)):
        assert torch.equal(views.device(pixels.cuda(), rows, 3).cpu(), views.device(pixels, rows, 3))


# --- what each choice does, and how often -----------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_flips(probability: float) -> None:
    pixels = _noise(1, 16).expand(4000, -1, -1, -1)
    found = _views(16, crop="none", flip=probability).device(pixels, torch.arange(4000), 0)
    straight, flipped = _normalised(pixels[:1]), _normalised(pixels[:1].flip(3))
    is_flipped = (found == flipped).flatten(1).all(1)
    assert ((found == straight).flatten(1).all(1) | is_flipped).all()
    assert is_flipped.double().mean().item() == pytest.approx(probability, abs=4 * (0.25 / 4000) ** 0.5)


def test_pad_crops_are_all_shifts_of_the_padded_image_evenly() -> None:
    size, pad, count = 16, 2, 5000
    pixels = _noise(1, size)
    found = _views(size, crop="pad", crop_padding=pad, flip=0.0).device(
        pixels.expand(count, -1, -1, -1), torch.arange(count), 0
    )
    padded = torch.nn.functional.pad(pixels, (pad,) * 4)
    counts = []
    for y in range(2 * pad + 1):
        for x in range(2 * pad + 1):
            shifted = _normalised(padded[:, :, y : y + size, x : x + size])
            counts.append((found == shifted).flatten(1).all(1).sum().item())
    assert sum(counts) == count
    expected = count / len(counts)
    assert sum((c - expected) ** 2 / expected for c in counts) < 51.2  # chi-square, 24 degrees, 99.9%


def test_flips_and_shifts_are_independent() -> None:
    views, rows = _views(16, crop="pad", flip=0.5), torch.arange(4000)
    ramp = torch.zeros(4000, 3, 16, 16, dtype=torch.uint8)
    ramp[:, 0] = torch.arange(16, dtype=torch.uint8) * 10 + 50
    found = views.device(ramp, rows, 0)[:, 0, 8]
    flipped = found[:, 7] > found[:, 8]
    middle = torch.where(flipped, found.flip(1)[:, 8], found[:, 8])
    moved = ((middle * 0.229 + 0.485) * 255 - 130) / 10
    assert abs(np.corrcoef(flipped.numpy(), moved.numpy())[0, 1]) < 4 / 4000**0.5


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_erasing_sets_a_box_to_the_mean(probability: float) -> None:
    count, size = 2000, 32
    pixels = torch.full((count, 3, size, size), 255, dtype=torch.uint8)
    found = _views(erase=probability, **PLAIN).device(pixels, torch.arange(count), 0)
    erased = (found == 0).all(1)
    some = erased.flatten(1).any(1)
    assert some.double().mean().item() == pytest.approx(probability, abs=0.05)
    assert torch.equal(found[~some], _normalised(pixels[~some]))
    areas = erased[some].flatten(1).double().mean(1)
    if probability:
        assert areas.min() >= 0.005
        assert areas.max() <= 0.45
        assert areas.mean().item() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)
    for mask in erased[some][:50]:
        ys, xs = torch.where(mask)
        assert mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()


def test_a_pixel_is_erased_where_its_middle_is_in_the_box() -> None:
    size, rows = 32, torch.arange(300)
    white = torch.full((300, 3, size, size), 255, dtype=torch.uint8)
    found = (_views(size, erase=0.5, **PLAIN).device(white, rows, 2) == 0).all(1).numpy()
    drawn = {what: uniforms(rows, f"erase {what}", 0, 2).numpy() for what in ("area", "aspect", "y", "x")}
    chosen = uniforms(rows, "erase", 0, 2).numpy() < 0.5
    for i in range(300):
        side = size * math.sqrt(0.02 + (1 / 3 - 0.02) * drawn["area"][i])
        stretch = math.exp((2 * drawn["aspect"][i] - 1) * math.log(3.3) / 2)
        height, width = min(side * stretch, size), min(side / stretch, size)
        top, left = drawn["y"][i] * (size - height), drawn["x"][i] * (size - width)
        middles = np.arange(size) + 0.5
        want = ((top <= middles) & (middles < top + height))[:, None] & ((left <= middles) & (middles < left + width))
        assert np.array_equal(found[i], want & chosen[i]), i


def test_colours_are_changed_literally() -> None:
    pixels, rows = _noise(16), torch.arange(16)
    found = _views(color_jitter=0.4, **PLAIN).device(pixels, rows, 1)
    contrast, brightness, saturation = (
        1 + 0.4 * (2 * uniforms(rows, what, 0, 1).view(-1, 1, 1, 1) - 1)
        for what in ("contrast", "brightness", "saturation")
    )

    def grey(images: Tensor) -> Tensor:
        return (images * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)

    images = pixels.double() / 255
    mean = grey(images).mean((2, 3), keepdim=True)
    images = ((mean + contrast * (images - mean)).clamp(0, 1) * brightness).clamp(0, 1)
    images = (grey(images) + saturation * (images - grey(images))).clamp(0, 1)
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (MEAN, STD))
    assert torch.allclose(found.double(), (images - mean) / std, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_device_changes_images_without_a_wait_and_to_the_same_bits(channels: int) -> None:
    cfg = Data(color_jitter=0.4, erase=0.5, crop="pad", flip=0.5)
    norm = (0.5,) * channels, (0.25,) * channels
    views = Views(cfg, 32, *norm, grey=channels == 1, native_size=(32, 32), train=True)
    rows = torch.arange(24)
    pixels = _noise(24)[:, [0, 1, 2, 0][:channels]]
    want = views.device(pixels, rows, 3)
    with simulated() as device:
        there, changes = pixels.to(device()), tree.to(views.changes(rows, 3), device())
        views.device(there, rows, 3, changes)  # copies mean and std, once
        device.waits.clear()
        found = views.device(there, rows, 3, changes)
        assert not +device.waits
        assert torch.equal(found.cpu(), want)


def test_color_jitter_stays_in_range_and_off_is_off() -> None:
    pixels, rows = _noise(64), torch.arange(64)
    assert torch.equal(_views(**PLAIN).device(pixels, rows, 0), _normalised(pixels))
    found = _views(color_jitter=0.4, **PLAIN).device(pixels, rows, 0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    back = found * std + mean
    assert back.min() > -1e-5
    assert back.max() < 1 + 1e-5
    assert not torch.allclose(found, _normalised(pixels), atol=0.05)


def test_color_jitter_keeps_grey_images_grey() -> None:
    grey = _noise(8)[:, :1].expand(-1, 3, -1, -1)
    views = Views(
        Data(color_jitter=0.8, crop="none", flip=0.0), 32, (0.5,) * 3, (0.5,) * 3,
        grey=True, native_size=(32, 32), train=True,
    )  # fmt: skip
    found = views.device(grey, torch.arange(8), 0)
    assert (found - found[:, :1]).abs().max() < 1e-5


# --- one image at a time ----------------------------------------------------------------------------------------------


def test_a_resized_crop_is_a_part_of_the_image_of_the_asked_area_and_aspect() -> None:
    width, height, size = 120, 90, 24
    ys, xs = np.mgrid[0:height, 0:width]
    ramp = Image.fromarray(np.stack([xs * 2, ys * 2, np.zeros_like(xs)], axis=2).astype(np.uint8))
    views = _views(size, crop="resized", crop_scale=[0.25, 0.5], flip=0.0)
    areas, aspects, lefts = [], [], []
    for row in range(300):
        pixels = views.host(ramp, row, 0).float()
        w, h = ((pixels[c].max() - pixels[c].min()).item() / 2 * size / (size - 1) for c in (0, 1))
        areas.append(w * h / (width * height))
        aspects.append(w / h)
        lefts.append(pixels[0].min().item() / 2)
    assert 0.22 < min(areas) < 0.29
    assert 0.46 < max(areas) < 0.53
    assert 0.7 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.43
    assert min(lefts) < 5
    assert max(lefts) > 50


@pytest.mark.parametrize("crop", ["none", "resized"])
def test_crops_and_augmentation_are_not_zoomed_again_by_evaluations_crop(crop: str) -> None:
    ys, xs = np.mgrid[0:32, 0:32]
    ramp = Image.fromarray(np.stack([xs * 8, ys * 8, xs * 0], axis=2).astype(np.uint8))
    whole = {"crop": crop, "crop_scale": [1.0, 1.0], "flip": 0.0, "auto_augment": "rand-m0-n0"}
    # A random crop of the whole image shows the whole image; without one, training sees what evaluation sees.
    for eval_crop in (1.0, 0.5):
        expected = ramp if crop == "resized" else None
        found = _views(32, eval_crop=eval_crop, **whole).host(ramp, 0, 0)
        evaluated = _views(32, train=False, eval_crop=eval_crop).host(ramp, 0, 0)
        if expected is None:
            assert torch.equal(found, evaluated)
        else:
            assert (found[0].max() - found[0].min()).item() > 220


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "original", "augmix-m3-w3", "3a"])
def test_timms_augmentations_join_as_functions_of_the_sample(policy: str) -> None:
    views, image = _views(crop="none", auto_augment=policy), picture(1, (40, 40))
    before = random.getstate(), torch.get_rng_state()
    found = [views.host(image, row, 0) for row in range(12)]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    random.seed(99)
    assert all(torch.equal(views.host(image, row, 0), found[row]) for row in reversed(range(12)))
    assert len({tuple(pixels.flatten().tolist()) for pixels in found}) > 4
    assert any(not torch.equal(views.host(image, row, 1), found[row]) for row in range(12))


@pytest.mark.parametrize("policy", ["random-m9", "rand-q7", "nonsense"])
def test_an_unknown_policy_is_refused_with_examples(policy: str) -> None:
    with pytest.raises(InputError, match=rf"auto_augment={policy}.*rand-m9-mstd0.5"):
        _views(auto_augment=policy)
    _views(train=False, auto_augment=policy)
