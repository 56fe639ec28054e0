"""Whole runs through the command line: what they leave behind, what they repeat, and what they are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config

import kdtool
from kdtool.recipe import load as recipes
from kdtool.tasks.common.own_code import load_factory
from kdtool.tasks.images.data.open import open_data
from tests.running import Done, call, distil, start, write_images
from tests.sampling import every

QUICK = ("teacher.train.epochs=1", "teacher.check=off")
"""Where it does not matter what the teacher knows."""

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).mean((2, 3)))

def make(num_classes, width=8):
    return Net(num_classes, width)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def own_file(place: Path) -> str:
    path = place / "net.py"
    path.write_text(OWN)
    return f"{path}:make"


@pytest.fixture(scope="module")
def full(place: Path) -> Done:
    """A CNN from a CNN by hints, with a baseline; the machine's document on stdout."""
    return distil(
        place / "full", "--method", "fitnets", "--baseline", "--json", "--epochs", "2", "data.val_fraction=0.2"
    )


@pytest.fixture(scope="module")
def vit(place: Path, full: Done) -> Done:
    """A ViT from the same teacher, by hints between layers that nobody named."""
    return distil(
        place / "vit", "--student", "test_vit", "--method", "fitnets", "--epochs", "2", "data.val_fraction=0.2"
    )


@pytest.fixture(scope="module")
def own(place: Path, own_file: str) -> Done:
    """A student of the user's own architecture, with an argument of its own, and views that are decoded anew."""
    args = ("student.model_args.width=12", "data.crop=resized", "data.mixup=0.2", "data.cutmix=1.0", "train.ema=0.5")
    return distil(place / "own", "--student", own_file, *args)


# --- the run's folder -------------------------------------------------------------------------------------------------


def test_a_run_leaves_one_folder_with_all_that_the_issue_names(full: Done) -> None:
    files = {path.name for path in full.folder.iterdir()}
    assert files == {
        "recipe.yaml",
        "begun.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "baseline",
        "student",
        "result.json",
        "test_scores.npz",
    }
    assert sorted(path.name for path in (full.folder / "student").iterdir()) == ["config.json", "model.safetensors"]
    assert not list(full.folder.glob("**/.*"))
    recipe = recipes.load(full.folder / "recipe.yaml")
    assert (recipe.method, recipe.train.epochs, recipe.data.labels_per_class) == ("fitnets", 2, 16)
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe


def test_json_is_the_result_and_nothing_else(full: Done) -> None:
    assert json.loads(full.out) == full.result
    assert "teacher test_resnet" in full.err


def test_the_result_says_everything(full: Done) -> None:
    result = full.result
    for part in ("student", "teacher", "baseline"):
        metrics = result["test"][part]
        assert set(metrics) == {"top1", "top5", "macro_recall", "macro_f1"}
        assert all(0 <= value <= 1 for value in metrics.values())
    assert result["gain_points"] == pytest.approx(
        100 * (result["test"]["student"]["top1"] - result["test"]["baseline"]["top1"]), abs=1e-3
    )
    for part in ("student", "teacher"):
        assert all(result[part][key] > 0 for key in ("params", "macs", "bytes"))
    assert result["student"]["bytes"] == len(full.file())
    # Epochs are counted over both stages, and those of the last one compete: here the second epoch alone.
    last = {"epoch": 2, "val": full.log()[1]["val"]}
    assert result["epochs"] == {"best": last, "last": last, "selected": "best"}
    assert all(result["seconds"][key] > 0 for key in ("baseline", "student", "total"))
    assert (result["method"], result["seed"], result["data"]["test"]) == ("fitnets", 0, 359)


def test_the_log_has_a_line_an_epoch(full: Done) -> None:
    lines = full.log()
    assert [(line["stage"], line["epoch"]) for line in lines] == [("hint", 1), ("distill", 1)]
    assert set(lines[1]["train"]) == {"kl", "task", "total"}
    assert len((full.folder / "baseline" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_baseline_is_what_the_method_none_gives_on_the_same_budget(full: Done, place: Path) -> None:
    alone = distil(place / "none", "--method", "none", "--epochs", "2", "data.val_fraction=0.2")
    assert alone.result["test"]["student"] == full.result["test"]["baseline"]
    assert alone.result["test"]["teacher"] is None
    assert "gains" not in alone.out


# --- the student that ships -------------------------------------------------------------------------------------------


def _accuracy(network: torch.nn.Module, config: dict[str, Any]) -> float:
    """Measure as somebody would who has timm and the pictures, and not kdtool."""
    transform = create_transform(**config, is_training=False)
    test = open_data(recipes.load().data).test
    images = torch.stack([transform(test.images[int(row)]) for row in test.rows])
    with torch.no_grad():
        found = network.eval()(images).argmax(1)
    return found.eq(torch.from_numpy(test.labels)).double().mean().item()


@pytest.mark.parametrize("name", ["full", "vit"])
def test_plain_timm_reproduces_the_reported_accuracy(name: str, request: pytest.FixtureRequest) -> None:
    done: Done = request.getfixturevalue(name)
    network = timm.create_model(f"local-dir:{done.folder}/student", pretrained=True)
    config = resolve_model_data_config(network)
    assert tuple(config["input_size"]) == (3, 32, 32)
    assert _accuracy(network, config) == done.result["test"]["student"]["top1"]


def test_a_run_says_how_to_open_its_student(vit: Done) -> None:
    line = vit.out.partition("Open the student, in Python:\n")[2].splitlines()[0]
    assert line == vit.result["student"]["open_with"]
    network = eval(line, {"timm": timm})
    assert _accuracy(network, resolve_model_data_config(network)) == vit.result["test"]["student"]["top1"]


def test_an_own_student_is_opened_as_its_config_says(own: Done, own_file: str) -> None:
    config = json.loads(own.file("student/config.json"))
    assert config["kdtool"]["source"] == own_file
    network = load_factory(config["kdtool"]["source"]).build(config["num_classes"], config["model_args"])
    network.load_state_dict(load_file(own.folder / "student" / "model.safetensors"))
    cfg = config["pretrained_cfg"]
    data = {key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    assert _accuracy(network, data) == own.result["test"]["student"]["top1"]


# --- what repeats -----------------------------------------------------------------------------------------------------


def test_a_second_run_reuses_the_teacher_and_gives_the_same_bytes(full: Done, place: Path) -> None:
    more = ("--method", "fitnets", "--epochs", "2", "data.val_fraction=0.2")
    again = distil(place / "again", *more)
    assert "teacher test_resnet: reusing the one trained before" in again.out
    for file in ("student/model.safetensors", "student/config.json"):
        assert again.file(file) == full.file(file)
    assert again.result["test"]["student"] == full.result["test"]["student"]
    assert again.result["seconds"]["teachers"] < 1


def test_workers_change_nothing(own: Done, own_file: str, place: Path) -> None:
    args = ("student.model_args.width=12", "data.crop=resized", "data.mixup=0.2", "data.cutmix=1.0", "train.ema=0.5")
    assert "every view is cropped" in own.out
    workers = distil(place / "workers", "--student", own_file, *args, "--workers", "2")
    assert "2 workers" in workers.out
    assert workers.file() == own.file()


def test_another_seed_changes_the_student_and_keeps_the_teacher(full: Done, place: Path) -> None:
    other = distil(place / "seed", "--seed", "1", "--method", "fitnets", "--epochs", "2", "data.val_fraction=0.2")
    assert "reusing" in other.out
    assert other.file() != full.file()
    assert other.result["test"]["teacher"] == full.result["test"]["teacher"]


def test_resuming_a_finished_run_prints_its_result(full: Done) -> None:
    before = full.file("result.json")
    again = call("run", "--resume", full.folder, "--json")
    assert (again.code, json.loads(again.out)) == (0, full.result)
    assert "baseline" in call("run", "--resume", full.folder).out
    assert full.file("result.json") == before


def test_python_gives_what_the_command_gives(full: Done, place: Path) -> None:
    recipe = recipes.load(full.folder / "recipe.yaml")
    recipe.out, recipe.baseline = str(place / "python"), False
    result = kdtool.run(recipe)
    assert result.folder == place / "python"
    assert (result.folder / "student" / "model.safetensors").read_bytes() == full.file()
    assert result.test["student"] == full.result["test"]["student"]


# --- what a run can be made of ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_vit_teaches_a_cnn_without_a_layer_being_named(place: Path) -> None:
    done = distil(place / "from-vit", "--teacher", "test_vit", "--method", "fitnets", "--epochs", "2", *QUICK)
    assert [line["stage"] for line in done.log()] == ["hint", "distill"]


@pytest.mark.parametrize("how", ["weights.safetensors", "nested.pth"])
def test_an_own_architecture_teaches_with_weights_from_a_file(own: Done, own_file: str, place: Path, how: str) -> None:
    state = load_file(own.folder / "student" / "model.safetensors")
    path = own.folder / "student" / "model.safetensors"
    if how == "nested.pth":
        path = place / how
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    teacher = ("--teacher", own_file, "--teacher-weights", path, "teacher.model_args.width=12")
    done = distil(place / f"by-{how}", *teacher, "--method", "fitnets", "--epochs", "2", "teacher.check=off")
    assert "training it" not in done.out
    assert done.result["test"]["teacher"] == own.result["test"]["student"]
    assert done.result["teacher"]["params"] == own.result["student"]["params"]


def test_several_teachers_take_their_weights_in_order(full: Done, own: Done, own_file: str, place: Path) -> None:
    files = [each.folder / "student" / "model.safetensors" for each in (own, full)]
    teachers = ("--teacher", own_file, "--teacher", "test_efficientnet")
    weights = ("--teacher-weights", files[0], "--teacher-weights", files[1])
    more = ("teacher.0.model_args.width=12", "teacher.check=off", "kd.teacher_weights=[1,3]")
    done = distil(place / "two", *teachers, *weights, *more)
    assert [each["top1"] for each in done.result["test"]["teacher"]] == [
        own.result["test"]["student"]["top1"], full.result["test"]["student"]["top1"]
    ]  # fmt: skip
    other_order = ("--teacher-weights", files[1], "--teacher-weights", files[0])
    swapped = start(place / "swapped", *teachers, *other_order, *more)
    assert swapped.code == 2
    assert not (place / "swapped").exists()


def test_flags_of_the_budget_and_of_rare_classes(place: Path) -> None:
    flags = ("--teacher-epochs", "1", "--patience", "1", "--class-weights", "--balanced", "teacher.check=off")
    done = distil(place / "budget", *flags, "--epochs", "3", "--lr", "0")
    assert "warning: the student cannot be told from guessing" in done.out  # its learning rate is 0
    assert any("too fast (optim.lr=0) or too little" in each for each in done.result["says"])
    recipe = done.file("recipe.yaml").decode()
    for line in ("patience: 1", "class_weights: balanced", "sampler: balanced"):
        assert line in recipe
    refused = start(place / "no-val", "--patience", "1", "data.val_fraction=0")
    assert refused.code == 2
    assert "train.patience" in refused.err


def test_a_runs_folder_is_a_teacher(full: Done, place: Path) -> None:
    done = distil(place / "of-a-run", "--teacher", full.folder, *QUICK)
    assert done.result["test"]["teacher"] == full.result["test"]["student"]
    assert f"{full.folder} is a run: its student is meant" in done.out
    assert "training it" not in done.out


@pytest.mark.slow
def test_a_teacher_may_see_larger_images_than_the_student(place: Path) -> None:
    done = distil(place / "larger", "teacher.image_size=48", *QUICK)
    assert (done.result["teacher"]["image_size"], done.result["student"]["image_size"]) == (48, 32)


@pytest.mark.parametrize("layout", ["train and val", "one folder"])
def test_a_folder_of_colour_pictures_of_all_sizes(layout: str, place: Path) -> None:
    folder = place / layout
    if layout == "one folder":
        write_images(folder, {"cat": 30, "dog": 30, "fox": 30})
    else:
        write_images(folder / "train", {"cat": 24, "dog": 24, "fox": 24})
        write_images(folder / "val", {"cat": 6, "dog": 6, "fox": 6}, seed=1)
    write_images(place / f"{layout} extra", {"any": 7})
    more = ("data.labels_per_class=15", f"data.unlabelled={place / f'{layout} extra'}", "data.exclude_classes=[fox]")
    epochs = ("--epochs", "3", "teacher.train.epochs=4", "--baseline")
    done = distil(place / f"on {layout}", "--data", folder, *more, *epochs)
    data = done.result["data"]
    assert (data["classes"], data["test"], data["image_size"]) == (3, 18, 48)
    assert data["train"] == 2 * 15 + 7
    assert done.result["test"]["student"]["top5"] is None
    assert "top-5" not in done.out
    config = json.loads(done.file("student/config.json"))
    assert config["label_names"] == ["cat", "dog", "fox"]
    for side, name in (("teacher", "test_resnet"), ("student", "test_efficientnet")):
        assert done.out.count(f"{name} starts from scratch: no pretrained weights could be had") == 1
        assert f"{side}.weights=scratch says so" in done.out
    assert done.result["difference"]["samples"] == 18
    assert "over the 18 test images the 95% interval of the gain is" in " ".join(done.out.split())


@pytest.mark.parametrize(
    "options",
    every(
        3,
        [
            ["--precision", "bf16"],
            ["train.accumulate=3"],
            ["optim.name=sgd", "schedule.name=multistep", "schedule.milestones=[1]"],
            ["data.mixup=0.4", "data.cutmix=1", "train.label_smoothing=0.1"],
            ["train.ema=0.9", "train.clip_grad=1", "data.val_fraction=0"],
        ],
    ),
    ids=lambda options: options[0],
)
def test_options_of_training_run_and_repeat(options: list[str], full: Done, tmp_path: Path) -> None:
    teacher = ("--teacher", "test_efficientnet", "--teacher-weights", full.folder / "student" / "model.safetensors")
    one, two = (distil(tmp_path / name, *teacher, "teacher.check=off", *options) for name in "ab")
    assert one.file() == two.file()
    assert one.result["epochs"]["selected"] == ("last" if "data.val_fraction=0" in options else "best")


@pytest.mark.slow
def test_mnist_with_a_teacher_that_an_earlier_run_made(shared_data: Path, place: Path) -> None:
    mnist = ("--data", shared_data / "mnist", "data.labels_per_class=60", "data.val_fraction=0")
    teacher = distil(place / "mnist-teacher", *mnist, "--method", "none", "--student", "test_resnet", "--epochs", "3")
    weights = ("--teacher-weights", teacher.folder / "student" / "model.safetensors")
    done = distil(place / "mnist", *mnist, *weights, "--method", "fitnets", "--epochs", "2")
    assert (done.result["data"]["classes"], done.result["data"]["test"]) == (10, 10000)
    assert done.result["test"]["teacher"] == teacher.result["test"]["student"]
    assert done.result["test"]["teacher"]["top1"] > 0.3
