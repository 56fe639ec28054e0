"""What the engine finds wrong once it runs: one message, an exit code, and nothing half-written left behind.

What is wrong with a recipe or is found before a run begins is in ``tests/cli``.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.running import Done, call, distil, start, write_images


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run whose student knows something."""
    return distil(tmp_path_factory.mktemp("knowing") / "run", "--method", "none", "--epochs", "4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _refused(done: Done, *words: str, code: int = 2) -> str:
    assert done.code == code, done.err + done.out
    assert "Traceback" not in done.err + done.out
    messages = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, done.err
    for word in words:
        assert word in messages[0]
    return messages[0]


def _teachers() -> set[str]:
    folder = Path(os.environ["KDTOOL_HOME"]) / "teachers"
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"} if folder.is_dir() else set()


def _scrambled(knowing: Done, folder: Path) -> Path:
    """Write the weights of a network that knows the digits by other numbers."""
    state = load_file(knowing.folder / "student" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].roll(3, 0)
    torch.save(state, folder / "scrambled.pth")
    return folder / "scrambled.pth"


@pytest.mark.parametrize("more", [(), ("--assistant", "test_vit"), ("--out", "deep/er")], ids=["run", "chain", "out"])
def test_a_teacher_with_its_classes_in_another_order(knowing: Done, here: Path, more: tuple[str, ...]) -> None:
    weights = _scrambled(knowing, here.parent)
    arguments = ("--teacher", "test_efficientnet", "--teacher-weights", weights, "--student", "test_resnet")
    done = call("run", *arguments, "--epochs", "1", "--device", "cpu", *more)
    _refused(done, "at chance level", "another order", "teacher.check=warn")
    assert list(here.iterdir()) == []


def test_a_teacher_at_chance_may_be_insisted_on(knowing: Done, here: Path) -> None:
    weights = _scrambled(knowing, here.parent)
    done = distil(here / "out", "--teacher", "test_efficientnet", "--teacher-weights", weights, "teacher.check=warn")
    assert "at chance level" in done.out + done.err


def test_a_teacher_worse_than_the_baseline_brings_a_warning(here: Path) -> None:
    weak = ("teacher.train.epochs=1", "teacher.check=off", "teacher.train.optim.lr=0")
    done = distil(here / "out", "--baseline", "--epochs", "4", *weak)
    assert "below the student trained alone" in done.out + done.err


class _Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_checkpoint_that_runs_code_is_not_read(here: Path, side: str) -> None:
    trace, path = here.parent / "ran", here.parent / "evil.pt"
    path.write_bytes(pickle.dumps({"state_dict": _Evil(trace)}))
    _refused(start(here / "out", f"--{side}-weights", path), "evil.pt", "read safely", "state_dict")
    torch.save({"state_dict": _Evil(trace)}, path)
    _refused(start(here / "out", f"--{side}-weights", path), "evil.pt")
    assert not trace.exists()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_weights_for_other_classes_say_what_to_do(knowing: Done, here: Path, side: str) -> None:
    images = write_images(here.parent / "images", {"a": 20, "b": 20, "c": 20})
    weights = knowing.folder / "student" / "model.safetensors"
    model = (f"--{side}", "test_efficientnet", f"--{side}-weights", weights)
    before = _teachers()
    _refused(start(here / "out", "--data", images, *model), "10 classes", "3", f"{side}.new_head=true")
    assert _teachers() == before
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("optim.name=adamm", ["optim.name=adamm", "'adam"]),
        ("teacher.train.optim.name=sdg", ["teacher.train.optim.name=sdg", "'sgd'"]),
        ("optim.options.nestorov=true", ["optim", "nestorov"]),
        ("fitnets.hint_epochs=9", ["stages", "epochs"]),
        ("fitnets.hint_layer=nowhere", ["nowhere"]),
        ("data.exclude_classes=[ten]", ["ten"]),
        ("data.unlabelled=nowhere", ["nowhere"]),
        ("data.auto_augment=rund-m9", ["rund-m9"]),
        ("teacher.model_args.no_such=1", ["no_such"]),
    ],
)
def test_what_only_the_student_needs_is_checked_before_the_teacher_is_trained(
    here: Path, option: str, words: list[str]
) -> None:
    before = _teachers()
    new_teacher = "teacher.train.seed=77"
    done = start(here / "out", "--method", "fitnets", "--epochs", "2", new_teacher, option)
    _refused(done, *words)
    assert "training it" not in done.out
    assert _teachers() == before
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def make(num_classes):\n    raise RuntimeError('no such layer')", ["net.py", "no such layer"]),
        ("def make(num_classes)\n", ["net.py"]),
        ("from torch import nn\ndef make(num_classes):\n    return nn.Conv2d(3, 4, 3)", ["classes", "(2, 10)"]),
        ("def make(num_classes):\n    return 7", ["net.py"]),
        ("def male(num_classes):\n    return 7", ["male"]),
    ],
)
def test_an_own_architecture_that_is_wrong(here: Path, code: str, words: list[str]) -> None:
    path = here.parent / "net.py"
    path.write_text(code)
    for side in ("teacher", "student"):
        _refused(start(here / "out", f"--{side}", f"{path}:make"), *words)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_images_too_small_for_a_model(here: Path, side: str) -> None:
    done = start(here / "out", f"--{side}", "inception_v3", "--image-size", "24")
    message = _refused(done, "inception_v3", "24x24")
    assert ("teacher.image_size=" if side == "teacher" else "--image-size ") in message
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("more", [(), ("data.crop=resized", "--workers", "1")], ids=["in memory", "by workers"])
def test_images_that_cannot_be_read(here: Path, more: tuple[object, ...]) -> None:
    images = write_images(here.parent / "images", {"a": 120, "b": 120})
    train = open_data(Data(name=str(images))).train
    paths = [Path(train.images.paths[train.rows[at]]) for at in (100, 101)]  # type: ignore[attr-defined]
    for path in paths:
        path.write_bytes(b"no picture")
    more = ("--method", "none", "--data", images, "data.labels_per_class=null", "--batch-size", "43", *more)
    done = distil(here / "out", "data.max_bad=0.02", *more)
    listed = [json.loads(line) for line in (done.folder / "bad-images.jsonl").read_text().splitlines()]
    assert "2 images could not be read" in done.out + done.err
    assert {line["why"].split()[1] for line in listed} == {str(path) for path in paths}
    done = start(here / "stopped", *more)
    # All of them are told before anything is trained or written.
    _refused(done, "2 of 172 training images", "cannot be read", "data.max_bad=0.01", *map(str, paths))
    assert not (here / "stopped").exists()


def test_a_loss_that_is_not_finite_ends_the_run(here: Path) -> None:
    done = start(here / "out", "--lr", "1e30", "--epochs", "3")
    _refused(done, "finite", "step", code=3)


def test_a_folder_in_use_is_not_touched(here: Path) -> None:
    (here / "thesis.txt").write_text("mine")
    _refused(start(here), "exists already", "another --out")
    assert [path.name for path in here.iterdir()] == ["thesis.txt"]


def test_debug_shows_where_an_error_came_from(here: Path) -> None:
    done = start(here / "out", "optim.name=adamm", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err
    assert "error: optim.name=adamm" in done.err
