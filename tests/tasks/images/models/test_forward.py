"""Networks that nobody has tried in another layout or mode than their author's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdtool.errors import InputError
from kdtool.tasks.images.models.build import build
from tests.running import call, distil, write_images
from tests.sampling import every

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn

class Views(nn.Module):
    # Flattens by view, which channels-last layout does not allow.
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 64, num_classes)
        self.aux = nn.Linear(4 * 64, num_classes)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x.view(-1).view(x.shape))))
        return self.head(x.view(x.shape[0], -1))

class Functional(Views):
    def forward(self, x):
        return self.head(F.conv2d(x, self.conv.weight, None, 2, 1).view(x.shape[0], -1))

class Tuple(Views):
    # An auxiliary head in training, as GoogLeNet has.
    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).flatten(1)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)

class Always(Views):
    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).flatten(1)
        return [self.head(x), self.aux(x)]

class Dict(Views):
    def forward(self, x):
        x = self.conv(x).flatten(1)
        return {"logits": self.head(x)} if self.training else self.head(x)

class Wide(Views):
    def forward(self, x):
        x = self.conv(x).flatten(1)
        return torch.cat([self.head(x), self.aux(x)], 1) if self.training else self.head(x)

class Raises(Views):
    def forward(self, x):
        if self.training:
            raise RuntimeError("only for evaluation")
        return self.head(self.conv(x).flatten(1))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    write_images(tmp_path / "photos", {"ant": 20, "bee": 20}, (16, 16))
    monkeypatch.chdir(tmp_path)
    return tmp_path


DATA = ["--data", "photos", "--image-size", "16"]
SMALL = [*DATA, "teacher.check=off", "data.labels_per_class=8"]


@pytest.mark.parametrize("more", every(2, [[], ["train.channels_last=false"]]))
def test_a_network_that_views_runs_as_student_and_teacher(folder: Path, more: list[str]) -> None:
    done = distil(folder / "a", *SMALL, *more, "--student", "net.py:Views", "--teacher", "test_resnet")
    assert "net.py:Views does not run in channels-last layout, so it is kept contiguous inside" in done.out
    weights = str(done.folder / "student" / "model.safetensors")
    trained = ["--teacher", "net.py:Views"]  # trained first, or ready
    for number, each in enumerate((trained, [*trained, "--teacher-weights", weights])):
        distil(folder / f"b{number}", *SMALL, *more, *each, "--student", "test_resnet")
    found = call("eval", "net.py:Views", "--weights", weights, *DATA[:2], "--split", "test", "--json", *more)
    assert json.loads(found.out)["metrics"]["top1"] == done.result["test"]["student"]["top1"]


def test_what_is_kept_contiguous_computes_the_same(folder: Path) -> None:
    built = build("net.py:Views", "scratch", 3, 16, seed=4)
    x = torch.randn(2, 3, 16, 16)
    m = built.module.eval()
    conv, norm, head = (m.get_submodule(name) for name in ("conv", "norm", "head"))
    expected = head(F.relu(norm(conv(x))).reshape(2, -1))
    assert torch.equal(m(x), expected)
    m.to(memory_format=torch.channels_last)
    torch.testing.assert_close(m(x.to(memory_format=torch.channels_last)), expected)
    assert isinstance(m, nn.Module)
    with pytest.raises(InputError, match=r"net\.py:Functional does not run on images in channels-last.*reshape"):
        build("net.py:Functional", "scratch", 3, 16)


@pytest.mark.parametrize("name", ["Tuple", "Always"])
def test_the_first_of_several_outputs_is_taken_in_both_modes(folder: Path, name: str) -> None:
    done = distil(folder / "a", *SMALL, "--student", f"net.py:{name}", "--teacher", f"net.py:{name}")
    assert "gives several outputs: the first is taken as the logits" in done.out
    built = build(f"net.py:{name}", "scratch", 3, 16)
    for training in (True, False):
        assert built.module.train(training)(torch.randn(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    every(3, [("Dict", "gives dict"), ("Wide", r"gives \(2, 4\)"), ("Raises", "does not run in training mode")]),
)
def test_what_gives_no_logits_in_training_is_refused_where_it_trains(folder: Path, name: str, said: str) -> None:
    torch.save(build("net.py:Tuple", "scratch", 2, 16).module.state_dict(), "w.pth")
    own, other, dry = f"net.py:{name}", "test_resnet", ["--dry-run", *SMALL]
    for pair in (
        ("--student", own, "--teacher", other),
        ("--student", own, "--teacher", other, "student.weights=w.pth"),
        ("--student", other, "--teacher", own),
        ("--student", other, "--teacher", own, "--teacher-weights", "w.pth", "--method", "dml"),
    ):
        done = call("run", *dry, *pair)
        assert done.code == 2, done.err
        assert re.search(f"net.py:{name} {said}", done.err)
    ready = ("--student", other, "--teacher", own, "--teacher-weights", "w.pth")  # it only evaluates
    assert call("run", *dry, *ready).code == 0
    assert call("eval", own, "--weights", "w.pth", *DATA).code == 0
