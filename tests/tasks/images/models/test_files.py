"""A user's own architecture file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdtool.errors import InputError
from kdtool.tasks.common.own_code import load_factory
from kdtool.tasks.images.models.build import build

SOURCE = """
import torch
from torch import nn
from helper import WIDTH

class Net(nn.Module):
    def __init__(self, num_classes, width=WIDTH):
        super().__init__()
        convs = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.body = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def make(num_classes, **kwargs):
    return Net(num_classes, **kwargs)

def deaf():
    return Net(3)

def raising(num_classes):
    raise KeyError("oops")

def a_dict(num_classes):
    return {}

def stubborn(num_classes):
    return Net(1000)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "helper.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_builds_and_is_a_function_of_the_seed(folder: Path) -> None:
    built = build("net.py:make", "auto", 7, 16, {"width": 6}, seed=3)
    again = build(f"{folder}/net.py:make", "auto", 7, 16, {"width": 6}, seed=3)
    other = build("net.py:make", "auto", 7, 16, {"width": 6}, seed=4)
    weight = built.module.get_parameter("head.weight")
    assert weight.shape == (7, 12)
    assert torch.equal(weight, again.module.get_parameter("head.weight"))
    assert not torch.equal(weight, other.module.get_parameter("head.weight"))
    assert (built.origin, built.needs_training, built.timm_name) == ("scratch", True, None)
    assert built.source_hash == load_factory("net.py:make").source_hash
    assert built.mean == (0.485, 0.456, 0.406)


def test_weights_and_taps(folder: Path) -> None:
    torch.save({"model": build("net.py:make", "scratch", 7, 16, seed=9).module.state_dict()}, "w.pth")
    built = build("net.py:make", "w.pth", 7, 16)
    assert (built.origin, built.needs_training) == ("file:w.pth", False)
    assert built.weights_id.startswith("sha256:")
    net = built.tapped({"hint": 0.0, "deep": -1, "vector": "embedding"})
    assert net.stage_count == 2
    assert net.shapes(16) == {"hint": (4, 8, 8), "deep": (8, 4, 4), "vector": (8,)}
    with pytest.raises(InputError, match="for 7 classes, the data has 5"):
        build("net.py:make", "w.pth", 5, 16)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nut.py:make", "net.py"),
        ("net.py:mak", "'make'"),
        ("net.py", "net.py:FUNCTION. It has: Net, make"),
        ("net.py:deaf", "called with num_classes, raised TypeError"),
        ("net.py:raising", "raised KeyError: 'oops'"),
        ("net.py:a_dict", "returned dict"),
        ("net.py:stubborn", r"\(2, 1000\) for 2 images instead of \(2, 5\)"),
        ("broken.py:make", "raised SyntaxError"),
    ],
)
def test_errors_name_what_is_wrong(folder: Path, spec: str, said: str) -> None:
    (folder / "broken.py").write_text("def make(:\n")
    with pytest.raises(InputError, match=said):
        build(spec, "scratch", 5, 16)


def test_has_no_pretrained_weights(folder: Path) -> None:
    with pytest.raises(InputError, match="your own architecture"):
        build("net.py:make", "pretrained", 5, 16)


def test_an_edited_file_is_read_again(folder: Path) -> None:
    before = load_factory("net.py:make")
    (folder / "net.py").write_text(SOURCE.replace("2 * width", "3 * width"))
    after = load_factory("net.py:make")
    assert before.source_hash != after.source_hash
    assert build("net.py:make", "scratch", 5, 16).module.get_parameter("head.weight").shape == (5, 12)


def test_numbers_that_are_not_finite_are_refused(folder: Path) -> None:
    source = SOURCE.replace(
        "return self.head(self.body(x).mean((2, 3)))", "return self.head(self.body(x).mean((2, 3))) / 0"
    )
    (folder / "nan.py").write_text(source)
    with pytest.raises(InputError, match="not finite"):
        build("nan.py:make", "scratch", 5, 16)
