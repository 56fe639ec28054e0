"""What a network's weights expect of their images: who says it, and that it is what the network is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdtool
from kdtool.errors import InputError
from kdtool.tasks.images.models.build import build
from kdtool.tasks.images.models.inputs import IMAGENET, Inputs
from kdtool.tasks.images.models.save import save_student
from tests.running import call, distil

MEAN, STD = (0.686, 0.687, 0.688), (0.2, 0.21, 0.22)

SOURCE = f"""
import timm
import torch
from torch import nn

class Bright(nn.Module):
    # Tells dark from light images by the sign of what normalising leaves of them.
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return self.scale * torch.stack([-mean, mean], 1)

def silent(num_classes):
    return Bright()

def says(num_classes):
    return Bright()

says.pretrained_cfg = dict(mean={MEAN}, std={STD}, interpolation="bilinear", crop_pct=0.9)

def wrong(num_classes):
    return Bright()

wrong.pretrained_cfg = dict(mean=(127, 127, 127))

def timms(num_classes):
    return timm.create_model("test_vit", num_classes=num_classes)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    torch.save({"scale": torch.tensor(10.0)}, tmp_path / "w.pth")
    draw = np.random.Generator(np.random.Philox(0))
    for name, light in (("dark", 150), ("light", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(light - 9, light + 9, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(mean: tuple[float, ...] = MEAN) -> str:
    return str(list(mean))


@pytest.mark.parametrize(
    ("model", "more", "top1"),
    [
        ("silent", [], 0.5),  # ImageNet's mean is darker than all of them
        ("silent", [f"student.mean={asked()}"], 1.0),
        ("silent", [f"data.mean={asked()}"], 1.0),
        ("says", [], 1.0),
        ("says", ["data.mean=[0.1, 0.1, 0.1]"], 1.0),
        ("says", ["student.mean=[0.1, 0.1, 0.1]"], 0.5),
    ],
)
def test_eval_normalises_as_is_said(folder: Path, model: str, more: list[str], top1: float) -> None:
    done = call("eval", f"net.py:{model}", "--weights", "w.pth", "--data", "photos", "--split", "all", "--json", *more)
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["top1"] == top1
    assert "inputs are normalised by mean" in done.err
    assert ("data.mean and data.std are not used" in done.err) == (model == "says" and "data.mean" in "".join(more))


@pytest.mark.parametrize(
    ("model", "more", "top1"),
    [
        ("silent", [], "50.0%"),
        ("silent", [f"teacher.mean={asked()}", f"teacher.std={asked(STD)}"], "100.0%"),
        ("silent", [f"data.mean={asked()}"], "100.0%"),
        ("says", [], "100.0%"),
    ],
)
def test_a_run_normalises_a_teacher_as_is_said(folder: Path, model: str, more: list[str], top1: str) -> None:
    own = ["--teacher", f"net.py:{model}", "--teacher-weights", "w.pth", "--data", "photos", "teacher.check=warn"]
    done = distil(folder / "run", *own, *more, "--student", "test_resnet", "data.labels_per_class=8")
    assert f"teacher net.py:{model}: top-1 {top1}" in done.out
    assert f"net.py:{model}: inputs are normalised by mean" in done.out


def test_eval_normalises_what_it_compares_with_as_that_says(folder: Path) -> None:
    done = call("eval", "net.py:silent", "--data", "photos", "--split", "all", "--teacher", "net.py:says", "--json")
    found = json.loads(done.out)
    assert (found["metrics"]["top1"], found["teachers"][0]["metrics"]["top1"]) == (0.5, 1.0)


def test_predict_normalises_as_is_said(folder: Path) -> None:
    for more, classes in (((), {"1"}), ([f"student.mean={asked()}"], {"0", "1"})):
        guesses = kdtool.predict("net.py:silent", "photos", weights=str(_two_classes(folder)), overrides=more)
        assert {guess.guesses[0][0] for guess in guesses} == classes
    with pytest.raises(InputError, match=r"student\.mean"):
        list(kdtool.predict("net.py:silent", "photos", overrides=["student.model=x"]))


def _two_classes(folder: Path) -> Path:
    """Return weights beside a description that says of how many classes they are."""
    (folder / "saved").mkdir(exist_ok=True)
    (folder / "saved" / "config.json").write_text('{"num_classes": 2}')
    torch.save({"scale": torch.tensor(10.0)}, folder / "saved" / "w.pth")
    return folder / "saved" / "w.pth"


def test_who_speaks_first(folder: Path) -> None:
    first, last = Inputs("a", mean=(0.1,) * 3), Inputs("z", (0.3,) * 3, (0.4,) * 3)
    silent = build("net.py:silent", "scratch", 2, 16)
    assert (silent.mean, silent.std) == (IMAGENET.mean, IMAGENET.std)
    assert build("net.py:silent", "scratch", 2, 16, otherwise=[last]).std == last.std
    says = build("net.py:says", "scratch", 2, 16, said=[first], otherwise=[last])
    assert (says.mean, says.std, says.interpolation, says.crop_pct) == (first.mean, STD, "bilinear", 0.9)
    assert build("net.py:timms", "scratch", 2, 32).mean == (0.5,) * 3
    assert build("test_vit", "scratch", 2, 32, otherwise=[last]).mean == (0.5,) * 3
    with pytest.raises(InputError, match=r"mean is \(127, 127, 127\); expected numbers from 0 to 1"):
        build("net.py:wrong", "scratch", 2, 16)


def test_weights_that_kdtool_saved_bring_their_normalisation(folder: Path) -> None:
    for name, size in (("net.py:silent", 16), ("test_resnet", 32)):
        trained = build(name, "scratch", 2, size, said=[Inputs("data", MEAN, STD)])
        weights = save_student(folder / "student", trained, trained.module.state_dict(), ["dark", "light"])
        again = build(name, str(weights), 2, size, otherwise=[Inputs("data", (0.1,) * 3, (0.1,) * 3)])
        assert (again.mean, again.std) == (MEAN, STD)
        assert any("config.json" in note for note in again.notes)


def test_resizing_and_cropping_are_the_networks_own(folder: Path) -> None:
    """What a student says is what its evaluation does, and what its folder says to others."""
    own = ["--student", "net.py:says", "--data", "photos", "--method", "none", "--lr", "0"]
    done = distil(folder / "run", *own)
    cfg = json.loads(done.file("student/config.json"))["pretrained_cfg"]
    assert (cfg["interpolation"], cfg["crop_pct"], cfg["mean"]) == ("bilinear", 0.9, list(MEAN))
    assert done.result["test"]["student"]["top1"] == 1.0
    done = distil(folder / "other", *own, "student.crop_pct=0.5", "student.interpolation=nearest")
    cfg = json.loads(done.file("student/config.json"))["pretrained_cfg"]
    assert (cfg["interpolation"], cfg["crop_pct"]) == ("nearest", 0.5)


def test_the_key_of_the_weights_reaches_every_command(folder: Path) -> None:
    """Averaged weights that tell dark from light, raw ones that tell nothing."""
    weights = {"state_dict_ema": {"scale": torch.tensor(10.0)}, "state_dict": {"scale": torch.tensor(0.0)}}
    torch.save(weights, folder / "w.pth")
    own = ["--weights", "w.pth", "--data", "photos", "--split", "all", "--json"]
    run = ["--teacher-weights", "w.pth", "--data", "photos", "teacher.check=warn", "data.labels_per_class=8"]
    for more, top1 in ((None, 1.0), ("state_dict_ema", 1.0), ("state_dict", 0.5)):
        done = call("eval", "net.py:says", *own, *([f"student.weights_key={more}"] if more else []))
        assert json.loads(done.out)["metrics"]["top1"] == top1
        if more == "state_dict_ema":
            continue
        key = [f"teacher.weights_key={more}"] if more else []
        done = distil(folder / str(more), "--teacher", "net.py:says", *run, *key, "--student", "test_resnet")
        assert f"teacher net.py:says: top-1 {top1:.1%}" in done.out
        assert "weights_key, beside weights in the recipe, chooses" in done.out


@pytest.mark.slow
def test_a_run_trains_the_new_head_of_a_file_or_a_folder(folder: Path) -> None:
    ten = build("test_resnet", "scratch", 10, 32, seed=8)
    weights = save_student(folder / "ten", ten, ten.module.state_dict(), [str(number) for number in range(10)])
    data = ["--data", "photos", "teacher.check=warn", "data.labels_per_class=8", "--student", "test_efficientnet"]
    file = ["--teacher", "test_resnet", "--teacher-weights", str(weights)]
    refused = call("run", *data, *file, "--dry-run")
    assert refused.code == 2
    assert "teacher.new_head=true" in refused.err
    done = distil(folder / "a", *data, *file, "teacher.new_head=true")
    assert "teacher test_resnet: training it on" in done.out
    done = distil(folder / "b", *data, "--teacher", f"local-dir:{weights.parent}")
    assert "its pretrained head is for 10 classes, so it gets a new one for 2" in done.out


def test_the_size_that_a_function_states_is_the_size_of_its_images(folder: Path) -> None:
    with (folder / "net.py").open("a") as file:
        file.write("\nsays.pretrained_cfg['input_size'] = (3, 48, 48)\nwrong.pretrained_cfg = dict(input_size=48)\n")
    for model, more, side in (("says", [], 48), ("says", ["--image-size", "40"], 40), ("silent", [], 32)):
        done = call("eval", f"net.py:{model}", "--data", "photos", "--weights", "w.pth", *more, "--json")
        assert json.loads(done.out)["data"]["image_size"] == side, (model, more)
    done = call("eval", "net.py:says", "--data", "photos", "--weights", "w.pth")
    assert "resized by bilinear; of the resized image the middle 0.9 counts" in done.err
    done = call("eval", "net.py:wrong", "--data", "photos", "--weights", "w.pth")
    assert done.code == 2
    assert "input_size is 48; expected channels, height and width" in done.err
    done = call("eval", "net.py:says", "--data", "photos", "--weights", "w.pth", "data.image_size=40")
    assert done.code == 2
    assert "--image-size" in done.err
