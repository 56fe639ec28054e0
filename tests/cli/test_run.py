"""``kdtool run``: what reaches the engine, and what a person sees when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdtool.errors import Interrupted, RunError
from kdtool.recipe import load as recipes
from tests.cli.conftest import Answer
from tests.running import PAIR

Kdtool = Callable[..., Answer]
ON_CPU = [*PAIR, "--device", "cpu"]


class Engine:
    """Stands in for ``kdtool.runs.api.run``: notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.error: BaseException | None = None

    def __call__(self, recipe: Any = None, **given: Any) -> Engine:
        self.calls.append({"recipe": recipe, **given})
        print("a library talks")
        given["reporter"].note("a note")
        if self.error is not None:
            raise self.error
        given["reporter"].done(self.to_dict())
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"method": "kd", "test": {"student": {"top1": 0.5}}, "student": {"name": "s"}}

    @property
    def recipe(self) -> recipes.Recipe:
        found: recipes.Recipe = self.calls[-1]["recipe"]
        return found


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    from kdtool.runs import api

    fake = Engine()
    monkeypatch.setattr(api, "run", fake)
    return fake


# --- from flags to a recipe -----------------------------------------------------------------------------------------


def test_every_flag_reaches_its_key(kdtool: Kdtool, engine: Engine, tmp_path: Path) -> None:
    given = {
        "--method": "fitnets", "--student": "s", "--data": "folder", "--student-weights": "pretrained", "--epochs": 7,
        "--batch-size": 8, "--lr": 0.5, "--image-size": 48, "--seed": 9, "--device": "cuda:1", "--precision": "bf16",
        "--workers": 2, "--out": tmp_path / "out",
    }  # fmt: skip
    repeated = ["--teacher", "a", "--teacher", "b", "--teacher-weights", "scratch", "--teacher-weights", "b.pth"]
    answer = kdtool(
        "run", *(x for pair in given.items() for x in pair), *repeated, "--baseline", "fitnets.temperature=2"
    )
    assert answer.code == 0, answer.err
    recipe = engine.recipe
    assert recipe.method == "fitnets"
    assert [(t.model, t.weights) for t in recipe.teacher] == [("a", "scratch"), ("b", "b.pth")]
    assert (recipe.student.model, recipe.student.weights) == ("s", "pretrained")
    assert (recipe.data.name, recipe.data.image_size, recipe.data.workers) == ("folder", 48, 2)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.seed) == (7, 8, 9)
    assert (recipe.train.device, recipe.train.precision, recipe.optim.lr) == ("cuda:1", "bf16", 0.5)
    assert (recipe.out, recipe.baseline) == (str(tmp_path / "out"), True)
    assert recipe.options["fitnets"].temperature == 2.0


def test_nothing_given_is_the_default_recipe(kdtool: Kdtool, engine: Engine) -> None:
    assert kdtool("run").code == 0
    assert engine.recipe == recipes.load()
    assert (engine.calls[0].get("resume"), engine.calls[0]["dry_run"]) == (None, False)


def test_recipe_flags_and_overrides_together(kdtool: Kdtool, engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    folder.joinpath("recipe.yaml").write_text("baseline: true\ntrain: {epochs: 1, batch_size: 1, seed: 1}\n")
    answer = kdtool("run", "--seed", "2", folder / "recipe.yaml", "train.batch_size=3", "--batch-size", "2")
    assert answer.code == 0, answer.err
    train = engine.recipe.train
    assert (train.epochs, train.batch_size, train.seed, engine.recipe.baseline) == (1, 3, 2, True)


def test_resume_leaves_the_recipe_to_the_folder(kdtool: Kdtool, engine: Engine) -> None:
    assert kdtool("run", "--resume", "runs/x", "--epochs", "3", "optim.lr=1").code == 0
    called = engine.calls[0]
    assert called["recipe"] is None
    assert (called["resume"], called["flags"], called["overrides"]) == ("runs/x", {"train.epochs": 3}, ["optim.lr=1"])
    assert not called["accept_changes"]
    assert kdtool("run", "--resume", "runs/x", "--accept-changes").code == 0
    assert engine.calls[1]["accept_changes"]
    assert kdtool("run", "--accept-changes").code == 2


@pytest.mark.parametrize("more", [["recipe.yaml"], ["--dry-run"]])
def test_resume_refuses_what_would_change_the_run(kdtool: Kdtool, engine: Engine, more: list[str]) -> None:
    answer = kdtool("run", "--resume", "runs/x", *more)
    assert answer.code == 2
    assert f"{more[0]} cannot change it" in answer.err
    assert engine.calls == []


# --- what comes out -------------------------------------------------------------------------------------------------


def test_json_is_the_only_thing_on_stdout(kdtool: Kdtool, engine: Engine) -> None:
    answer = kdtool("run", "--json")
    assert json.loads(answer.out) == engine.to_dict()
    assert "a note" in answer.err
    assert "a library talks" in answer.err
    quiet = kdtool("run", "--json", "--quiet")
    assert json.loads(quiet.out) == engine.to_dict()
    assert "a note" not in quiet.err


def test_quiet_leaves_the_final_table(kdtool: Kdtool, engine: Engine) -> None:
    answer = kdtool("run", "--quiet")
    assert "50.00 %" in answer.out
    assert "a note" not in answer.out + answer.err
    assert "a note" in kdtool("run").out


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (RunError("loss 'kl' is nan at step 3"), 3, "error: loss 'kl' is nan"),
        (Interrupted("stopped; resume with: x", 130), 130, "error: stopped; resume with: x"),
        (Interrupted("stopped; resume with: x", 143), 143, "error: stopped"),
        (KeyboardInterrupt(), 130, "stopped"),
        (ZeroDivisionError("one\ntwo"), 1, "internal error: ZeroDivisionError: one two (run with --debug"),
    ],
)
def test_errors_become_one_message_and_an_exit_code(
    kdtool: Kdtool, engine: Engine, error: BaseException, code: int, start: str
) -> None:
    engine.error = error
    answer = kdtool("run", "--json")
    assert (answer.code, answer.out) == (code, "")
    last = answer.err.splitlines()[-1]
    assert last.startswith(start)
    assert "Traceback" not in answer.err
    if not isinstance(error, KeyboardInterrupt):
        assert "Traceback" in kdtool("run", "--debug").err


# --- bad input ------------------------------------------------------------------------------------------------------

BAD_RECIPES: list[tuple[list[str], str]] = [
    (["--method", "fitnet"], "Did you mean 'fitnets'"),
    (["--method", "kd+kd"], "is there twice"),
    (["--method", ""], "method is empty"),
    (["no-such.yaml"], "there is no recipe 'no-such.yaml'"),
    (["kd"], "there is no recipe 'kd'"),
    (["a.yaml", "b.yaml"], "one recipe at a time; got a.yaml and b.yaml"),
    (["train.epoch=3"], "'train.epochs'"),
    (["kd.temprature=3"], "'kd.temperature'"),
    (["kd.temperature=hot"], "kd.temperature: expected a number"),
    (["kd.alpha=2"], "from 0 to 1"),
    (["--epochs", "0"], "train.epochs=0 is out of range: expected at least 1"),
    (["--epochs", "-1"], "train.epochs=-1 is out of range"),
    (["--batch-size", "0"], "train.batch_size=0"),
    (["--lr", "nan"], "optim.lr=nan"),
    (["--image-size", "0"], "data.image_size=0"),
    (["--workers", "-1"], "data.workers=-1 is out of range: expected from 0"),
    (["--seed", "-1"], "train.seed=-1"),
    (["--precision", "fp8"], "Valid: fp32, bf16, fp16, fp64"),
    (["--device", "tpu"], "Valid: auto, cpu, mps, cuda"),
    (["--data", ""], "data.name is empty"),
    (["--teacher", ""], "teacher.0.model is empty"),
    (["--teacher", "a", "--teacher-weights", "b", "--teacher-weights", "c"], "2 times for 1 teachers"),
    (["export.x=1"], "reserved"),
    (["--track", "tensorbord"], "Did you mean 'tensorboard'"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_RECIPES, ids=[" ".join(each) for each, _ in BAD_RECIPES])
def test_bad_recipes_never_reach_the_engine(
    kdtool: Kdtool, engine: Engine, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = kdtool("run", *arguments)
    _assert_refused(answer, words, tmp_path)
    assert engine.calls == []


def _assert_refused(answer: Answer, words: str, folder: Path) -> None:
    """One clear message on stderr, exit code 2, and nothing written."""
    assert answer.code == 2, answer.err
    messages = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1
    assert any(word in messages[0] for word in words.split("|")), messages[0]
    assert "Traceback" not in answer.err + answer.out
    assert not folder.joinpath("runs").exists()
    assert not folder.joinpath("out").exists()


def _images(folder: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        folder.joinpath(name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (32, 32), (i * 7 % 256, len(name) * 40 % 256, 99)).save(folder / name / f"{i}.png")
    return folder


def _missing(folder: Path) -> list[str]:
    return ["--data", str(folder / "nowhere")]


def _empty(folder: Path) -> list[str]:
    folder.joinpath("data").mkdir()
    return ["--data", str(folder / "data")]


def _one_class(folder: Path) -> list[str]:
    return ["--data", str(_images(folder / "data", {"only": 20}))]


def _no_images(folder: Path) -> list[str]:
    _images(folder / "data", {"a": 0, "b": 0})
    folder.joinpath("data", "a", "notes.txt").write_text("no image")
    return ["--data", str(folder / "data")]


def _other_classes(folder: Path) -> list[str]:
    torch.save({"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, folder / "seven.pth")
    return ["--teacher-weights", str(folder / "seven.pth")]


def _no_checkpoint(folder: Path) -> list[str]:
    folder.joinpath("notes.pth").write_text("these are no weights")
    return ["--student-weights", str(folder / "notes.pth")]


BAD_INPUTS: list[tuple[Callable[[Path], list[str]], str]] = [
    (_missing, "nowhere"),
    (_empty, "data"),
    (_one_class, "class"),
    (_no_images, "image"),
    (_other_classes, "seven.pth"),
    (_no_checkpoint, "notes.pth"),
    (lambda folder: ["--student-weights", str(folder / "none.pth")], "none.pth"),
    (lambda folder: ["--student-weights", "pretraned"], "pretrained"),
    (lambda folder: ["--student", "mobilenetv33"], "mobilenetv3"),
    (lambda folder: ["--teacher", "resnet5o"], "resnet50"),
    (lambda folder: ["--student", str(folder / "net.py") + ":build"], "net.py"),
    (lambda folder: ["--student", "inception_v3", "--image-size", "8"], "image"),
    (lambda folder: ["--resume", str(folder / "nothing")], "nothing"),
    (lambda folder: ["optim.name=adamm"], "adam"),
    (lambda folder: ["student.model_args.no_such=1"], "no_such"),
]


@pytest.mark.parametrize(("make", "words"), BAD_INPUTS, ids=[f"{make.__name__}-{words}" for make, words in BAD_INPUTS])
def test_bad_inputs_are_named(
    kdtool: Kdtool, make: Callable[[Path], list[str]], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = make(tmp_path)
    rest = [] if "--resume" in arguments else [*ON_CPU, "--epochs", "1", "teacher.train.epochs=1", "teacher.check=off"]
    for i in range(0, len(arguments) - 1, 2):  # what a case is about takes the place of the tiny default
        if arguments[i] in rest:
            at = rest.index(arguments[i])
            del rest[at : at + 2]
    if not {"--data", "--resume"} & set(arguments):
        rest += ["--data", str(_images(tmp_path / "images", {"a": 20, "b": 20}))]
    _assert_refused(kdtool("run", *arguments, *rest), words, tmp_path)


# --- with the real engine -------------------------------------------------------------------------------------------


def test_dry_run_shows_everything_and_writes_nothing(
    kdtool: Kdtool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = kdtool("run", *ON_CPU, "--method", "fitnets", "--dry-run")
    assert answer.code == 0, answer.err
    for words in ("method: fitnets", "hint_epochs", "guided", "hint", "test_resnet", "test_efficientnet", "distill"):
        assert words in answer.out
    described = json.loads(kdtool("run", *ON_CPU, "--method", "fitnets", "--dry-run", "--json").out)
    assert described["dry_run"] is True
    assert recipes.from_dict(described["recipe"]).method == "fitnets"
    assert list(tmp_path.iterdir()) == []
    assert described["data"]["parts"]["test"]["samples"] == 359
    seconds = described["seconds"]
    assert {"teacher test_resnet", "student", "total"} <= seconds.keys()
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    assert min(seconds.values()) > 0


def test_a_run_prints_one_table_and_leaves_a_folder(
    kdtool: Kdtool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--epochs", "1", "--baseline", "--out", "out", "teacher.train.epochs=1", "teacher.check=off"]
    more += ["--data", str(_images(tmp_path / "images", {"a": 20, "b": 20}))]
    answer = kdtool("run", *ON_CPU, *more)
    assert answer.code == 0, answer.err
    table = [line for line in answer.out.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in table] == ["teacher", "student", "baseline"]
    assert "points of top-1" in answer.out or "no difference" in answer.out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    again = kdtool("run", "--resume", "out", "--json")
    assert json.loads(again.out) == result
    assert kdtool("run", *ON_CPU, *more).code == 2
