"""Every example that a help text shows, run: on a tiny folder of photos, with tiny networks of the names' kinds."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_documented_lines import arguments, commands, shown
from tests.generation.files import questions
from tests.generation.serving import Plan, serve
from tests.running import CHEAP, call, write_images
from tests.tasks.language.small import saved, tokens

TINY = {
    "resnet50": "test_resnet", "mobilenetv3": "test_efficientnet", "resnet32x4": "test_resnet",
    "resnet8x4": "test_efficientnet", "vit_tiny": "test_vit", "resnet18": "test_resnet",
    "resnet18,mobilenetv3": "test_efficientnet", "METHOD": "kd", "my_method": "kd", "cifar100/": "photos",
}  # fmt: skip
"""What stands for a word of an example."""

CHEAPER = {
    "run": [*CHEAP, "--epochs", "1", "teacher.train.epochs=1"],
    "compare": [*CHEAP, "--epochs", "1", "--seeds", "1", "--data", "photos", "--tune", "1", "teacher.train.epochs=1"],
    "bench": [*CHEAP, "--data", "photos", "--pairs", "2", "--steps", "1", "--precision", "fp32"],
    "bench --data": ["--device", "cpu", "--batch-size", "16", "--pairs", "2"],
    "profile": ["--seconds", "0.01", "--image-size", "32"],
    "cache build": [*CHEAP, "--jobs", "1", "teacher.train.epochs=1"],
    "export": ["--tolerance", "100"],
    "generate": ["--new-tokens", "4", "--device", "cpu"],
}
"""What is added to an example of a command, so that it takes seconds."""

LEFT_OUT = ("--push-to-hub", "me/my-student")
"""Nothing is uploaded here."""

SLOW = ("compare", "onnx-int8", "doctor", "check my_method", "export runs")
"""Found in examples that take long."""

EXAMPLES = [
    pytest.param(
        name.removeprefix("kdtool "), line, marks=[pytest.mark.slow] if at or any(s in line for s in SLOW) else []
    )
    for name, command in commands()
    for at, line in enumerate(line for line in shown((command.help or "").replace("\b", "")) if line.startswith(name))
]
"""Of each command all, and in `make test` the first."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples name."""
    place = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_images(Path("photos"), {"ant": 24, "bee": 24, "cow": 24})
        Path("recipe.yaml").write_text(
            "teacher: {model: test_resnet}\nstudent: {model: test_efficientnet}\ndata: {name: photos, views: 2}\n"
        )
        run = Path("runs/resnet50-mobilenetv3-kd-1")
        assert call("run", "recipe.yaml", *CHEAPER["run"], "--out", run).code == 0
        for name in ("runs/a", "runs/b", "studies/one"):
            shutil.copytree(run, name)
        assert call("export", run, "--to", "onnx").code == 0
        shutil.copy(run / "export" / "student.onnx", "student.onnx")
        lines = [f"{('bad', 'good', 'long')[n % 3]} film number {n}\t{n % 3}" for n in range(60)]
        Path("films.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
        Path("reviews.txt").write_text("a good film\na bad film\n")
        sentences = ["--task", "text", "--data", "films.tsv", "--teacher", "textcnn", "--student", "bilstm"]
        sentences += ["--epochs", "1", "teacher.train.epochs=1", "teacher.check=off", "--device", "cpu"]
        assert call("run", *sentences, "--out", "runs/transformer-tiny-bilstm-kd-1").code == 0
        assert call("cache", "build", "recipe.yaml", *CHEAPER["cache build"]).code == 0
        for name in ("questions.jsonl", "tasks.jsonl"):
            questions(Path(name), 3)
        saved(Path("models/large"), tokens())
    return place


def _words(name: str, line: str) -> list[str]:
    words = [TINY.get(word, word) for word in arguments(line) if word not in LEFT_OUT]
    caches = json.loads(call("cache", "info", "--json").out) if "verify" in words else []
    words = [caches[0]["name"] if "-0123456789" in word else word for word in words]
    two = " ".join([name, *words[1:2]])
    return [*words, *CHEAPER.get(two, CHEAPER.get(name, ()))]


def test_every_command_has_examples() -> None:
    assert {name.removeprefix("kdtool ") for name, _ in commands()} == {each.values[0] for each in EXAMPLES}


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_examples_run(name: str, line: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    shutil.copytree(place, here)
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.stdin", io.StringIO("a good film\n"))
    with serve(Plan()) as address:
        done = call(*(address if word.startswith("http://") else word for word in _words(name, line)))
    assert done.code == 0, done.err + done.out
