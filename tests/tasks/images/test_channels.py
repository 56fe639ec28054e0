"""Images of one and of four channels: what networks are given of them, from a run to the file that serves them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from kdtool.errors import InputError
from kdtool.tasks.images.data.digits import open_digits
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.models.build import build
from kdtool.tasks.images.models.save import save_student
from kdtool.tasks.images.options import Data
from tests.running import Done, call, distil, start

README = Path(__file__).parents[3] / "README.md"

OWN = """
from torch import nn

def net(num_classes, in_chans=3):
    return nn.Sequential(nn.Conv2d(in_chans, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))

def colour(num_classes):
    return net(num_classes)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like MNIST's: grey PNGs of three digits."""
    folder = tmp_path_factory.mktemp("digits")
    images = open_digits().train
    assert images is not None
    for number in range(3):
        rows = images.rows[images.labels == number]
        for split, some in (("train", rows[:60]), ("test", rows[60:90])):
            (folder / split / str(number)).mkdir(parents=True)
            for row in some.tolist():
                images.images[row].convert("L").save(folder / split / str(number) / f"{row}.png")
    return folder


GREY = ["--method", "kd", "--student", "test_resnet", "data.channels=1", "--epochs", "4", "--lr", "0.005"]
GREY += ["--batch-size", "16", "data.views=1", "data.image_size=16", "data.labels_per_class=null"]
GREY += ["teacher.train.batch_size=16", "teacher.train.epochs=4", "teacher.train.optim.lr=0.005"]


@pytest.fixture(scope="module")
def done(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return distil(tmp_path_factory.mktemp("grey") / "run", "--data", digits, *GREY, "cache.mode=build")


# --- end to end -------------------------------------------------------------------------------------------------------


def test_grey_images_are_learnt_as_grey(done: Done, digits: Path) -> None:
    assert "1 channel" in done.out + done.err
    assert load_file(done.folder / "student" / "model.safetensors")["conv1.0.weight"].shape[1] == 1
    config = json.loads((done.folder / "student" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]
    assert len(config["pretrained_cfg"]["mean"]) == 1
    assert done.result["test"]["student"]["top1"] > 0.8
    said = json.loads(call("eval", done.folder, "--json").out)
    assert said["metrics"]["top1"] == done.result["test"]["student"]["top1"]
    assert said["teachers"][0]["metrics"]["top1"] > 0.8
    # A student's folder says itself what its images are.
    alone = json.loads(call("eval", done.folder / "student", "--data", digits, "--corrupt", "jpeg:3", "--json").out)
    assert alone["metrics"]["top1"] == said["metrics"]["top1"]
    assert alone["robustness"]


@pytest.mark.slow
def test_outputs_for_grey_are_kept_as_such(done: Done, digits: Path, tmp_path: Path) -> None:
    again = distil(tmp_path / "again", "--data", digits, *GREY, "cache.mode=require")
    assert again.file() == done.file()
    colour = start(tmp_path / "colour", "--data", digits, *GREY, "data.channels=3", "cache.mode=require")
    assert colour.code == 2
    assert "cache.mode=require" in colour.err


@pytest.mark.slow
def test_what_ships_reads_grey_everywhere(done: Done, digits: Path, tmp_path: Path) -> None:
    assert call("export", done.folder, "--to", "onnx,program").code == 0
    picture = next((digits / "test" / "2").iterdir())
    Image.open(picture).convert("RGBA").save(tmp_path / "clear.png")
    student = timm.create_model(f"local-dir:{done.folder / 'student'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(student), is_training=False)
    with torch.no_grad():
        logits = student(transform(Image.open(picture))[None])[0]
    code = re.search(r"<!-- serve -->\n```python\n(.*?)```", README.read_text(), re.S)
    assert code is not None
    for given in (picture, tmp_path / "clear.png"):
        arguments = [sys.executable, "-c", code[1], done.folder / "export" / "student.onnx", given]
        served = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=True).stdout
        assert json.loads(served.partition(" ")[2]) == pytest.approx(logits.tolist(), abs=1e-4)
        for target in (done.folder, done.folder / "export" / "student.pt2"):
            said = call("predict", target, given, "--json")
            (found,) = json.loads(said.out)["predictions"]
            assert found["classes"][0]["class"] == served.partition(" ")[0]
    profiled = json.loads(call("profile", done.folder, "--batch-sizes", "1", "--seconds", "0.01", "--json").out)
    assert len(profiled["rows"]) == 4


# --- reading ----------------------------------------------------------------------------------------------------------


def _views(channels: int, **cfg: Any) -> Views:
    given = [0.5] * channels, [0.25] * channels
    return Views(Data(**{"flip": 1.0, **cfg}), 16, *given, grey=False, native_size=(16, 16), train=True)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_every_view_has_the_channels(channels: int, crop: str) -> None:
    draw = np.random.Generator(np.random.Philox(channels))
    image = Image.fromarray(draw.integers(0, 256, (20, 24, 4), dtype=np.uint8), "RGBA")
    views = _views(channels, crop=crop, color_jitter=0.4, erase=1.0)
    pixels = views.host(image, 0, 0)
    assert pixels.shape == (channels, 16, 16)
    found = views.device(pixels[None], torch.tensor([0]), 0)
    assert found.shape == (1, channels, 16, 16)
    assert torch.isfinite(found).all()


def test_grey_of_a_colour_image_is_pils() -> None:
    draw = np.random.Generator(np.random.Philox(9))
    image = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    found = _views(1, crop="pad").host(image, 0, 0)
    assert np.array_equal(found[0].numpy(), np.asarray(image.convert("L")))


def test_jitter_leaves_opacity_alone() -> None:
    pixels = torch.randint(0, 256, (3, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(3)
    plain, changed = (_views(4, flip=0.0, crop="none", color_jitter=each).device(pixels, rows, 0) for each in (0, 0.5))
    assert torch.equal(plain[:, 3], changed[:, 3])
    assert not torch.equal(plain[:, :3], changed[:, :3])


def test_jitter_of_grey_is_that_of_equal_colours_without_saturation() -> None:
    pixels = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, cfg = torch.arange(3), {"flip": 0.0, "crop": "none", "color_jitter": 0.3}
    grey = _views(1, **cfg).device(pixels, rows, 0)
    colours = _views(3, **cfg).device(pixels.expand(-1, 3, -1, -1), rows, 0)
    assert torch.allclose(colours, grey.expand(-1, 3, -1, -1), atol=1e-5)


def test_policies_do_not_know_opacity() -> None:
    with pytest.raises(InputError, match=r"data\.channels=4"):
        _views(4, auto_augment="rand-m9-mstd0.5")
    image = Image.new("RGB", (16, 16), (200, 10, 30))
    assert _views(1, auto_augment="rand-m9-mstd0.5").host(image, 0, 0).shape == (1, 16, 16)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_a_teacher_of_rgb_is_adapted_as_timm_adapts_it(tmp_path: Path) -> None:
    source = build("test_resnet", "scratch", 2, 32, seed=3)
    save_student(tmp_path, source, source.module.state_dict(), ["a", "b"])
    grey = build(f"local-dir:{tmp_path}", "auto", 2, 32, channels=1)
    assert any("summed over the colours" in note for note in grey.notes)
    assert grey.mean == pytest.approx((sum(source.mean) / 3,))
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.module.eval()(images.expand(-1, 3, -1, -1))
        assert torch.allclose(grey.module.eval()(images), expected, atol=1e-5)
    body = build(f"local-dir:{tmp_path}", "auto", 0, 32, channels=4)
    assert any("repeated and scaled" in note for note in body.notes)


@pytest.mark.parametrize("channels", [1, 4])
def test_plain_timm_opens_what_was_saved(channels: int, tmp_path: Path) -> None:
    built = build("test_resnet", "scratch", 2, 32, channels=channels)
    save_student(tmp_path, built, built.module.state_dict(), ["a", "b"])
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in built.module.state_dict().items())
    assert timm.data.resolve_model_data_config(opened)["input_size"] == (channels, 32, 32)
    with pytest.raises(InputError, match=f"data.channels={channels}"):
        build(f"local-dir:{tmp_path}", "auto", 2, 32)


def test_own_networks_are_made_for_the_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(OWN)
    built = build("net.py:net", "scratch", 2, 16, channels=4)
    assert built.module[0].weight.shape[1] == 4
    assert built.tapped({"x": "embedding"}).shapes() == {"x": (4,)}
    with pytest.raises(InputError, match="in_chans"):
        build("net.py:colour", "scratch", 2, 16, channels=4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["data.channels=2"], "data.channels"),
        (["data.channels=1", "data.mean=[0.5,0.5,0.5]"], "expected 1 number"),
        (["student.model_args.in_chans=1"], "data.channels=3"),
    ],
)
def test_what_is_wrong_is_said(given: list[str], says: str, digits: Path) -> None:
    done = call("run", "--method", "none", "--student", "test_resnet", "--data", digits, "--dry-run", *given)
    assert done.code == 2
    assert says in done.err
