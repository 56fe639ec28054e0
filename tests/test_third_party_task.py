"""A stranger's pip package with a task of its own: listed, run, resumed, cached, compared and reported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.packages import install, kdtool

PACKAGE = Path(__file__).with_name("example_task")

SHORT = [
    "--task",
    "table",
    "--device",
    "cpu",
    "--epochs",
    "6",
    "teacher.train.epochs=12",
    "teacher.train.batch_size=16",
]
SHORT += ["--batch-size", "16"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment that sees the example package, with a home of its own."""
    return {**install(PACKAGE, tmp_path_factory), "KDTOOL_HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table that can be learnt: the class is the quadrant of two of four numbers."""
    folder = tmp_path_factory.mktemp("table")
    draw = np.random.Generator(np.random.Philox(7))
    lines = ["a,b,c,d,class"]
    for row in draw.normal(size=(400, 4)).round(4):
        lines.append(",".join(map(str, row)) + f",quadrant{int(row[0] > 0) + 2 * int(row[1] > 0)}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(environment: dict[str, str], place: Path) -> Path:
    """Return the folder of a run."""
    kdtool(environment, "run", *SHORT, "--out", "run", cwd=place)
    return place / "run"


def test_it_is_listed_with_its_distribution(environment: dict[str, str]) -> None:
    tasks = {each["name"]: each for each in json.loads(kdtool(environment, "list-tasks", "--json"))}
    assert {"images", "table"} <= set(tasks)
    assert (tasks["table"]["distribution"], tasks["table"]["version"]) == ("kdtool-table", "0.3.0")
    assert "table" in kdtool(environment, "list-tasks")


def test_it_is_run_in_its_own_words(environment: dict[str, str], run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert (result["task"], result["method"], result["unit"]) == ("table", "kd", "rows")
    assert result["teacher"]["name"] == "64x64"
    assert result["student"]["params"] == 5 * 8 + 9 * 4
    assert result["test"]["teacher"]["top1"] > 0.8
    assert result["test"]["student"]["top1"] > 0.4
    listed = kdtool(environment, "runs", ".", cwd=run.parent)
    assert "accuracy" in listed


def test_what_it_ships_opens_without_kdtool(run: Path) -> None:
    line = json.loads((run / "result.json").read_text())["student"]["open_with"]
    program = f"import sys, torch, safetensors.torch\nsys.modules['kdtool'] = None\n{line}\n"
    program += "print(net(torch.ones(2, 4)).shape)"
    done = subprocess.run([sys.executable, "-c", program], cwd=run.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "torch.Size([2, 4])\n"


@pytest.mark.slow
def test_it_is_resumed_to_equal_bytes(environment: dict[str, str], run: Path) -> None:
    place = run.parent
    kdtool(environment, "run", *SHORT, "--out", "again", "checkpoint.keep=9", cwd=place)
    (place / "again" / "result.json").unlink()
    every = sorted((place / "again" / "checkpoints").iterdir())
    assert len(every) == 6
    for folder in every[3:]:
        shutil.rmtree(folder)
    kdtool(environment, "run", "--resume", "again", cwd=place)
    weights = [(place / name / "student" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_its_teacher_is_cached_and_replayed(environment: dict[str, str], run: Path) -> None:
    place, cached = run.parent, [*SHORT, "data.views=1"]
    kdtool(environment, "cache", "build", *[each for each in cached if each not in ("--device", "cpu")], cwd=place)
    kdtool(environment, "run", *cached, "--out", "replayed", "cache.mode=require", cwd=place)
    assert (place / "replayed" / "result.json").is_file()
    assert "64x64" in kdtool(environment, "cache", "info", cwd=place)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fitnets", "dml"])
def test_methods_run_on_it(environment: dict[str, str], run: Path, method: str) -> None:
    kdtool(environment, "run", *SHORT, "--method", method, "--out", method, cwd=run.parent)
    assert (run.parent / method / "student" / "model.safetensors").is_file()


@pytest.mark.slow
def test_it_is_reported(environment: dict[str, str], run: Path) -> None:
    kdtool(environment, "report", "run", cwd=run.parent)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "test rows" in page
    shown = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.S)
    assert "image" not in shown.lower()


def test_it_has_no_exports_and_says_so(environment: dict[str, str], run: Path) -> None:
    said = kdtool(environment, "export", "run", cwd=run.parent, code=2)
    assert "the task 'table' has no exports" in said


@pytest.mark.slow
def test_its_tables_that_cannot_be_read_are_told(environment: dict[str, str], place: Path) -> None:
    (place / "bad.csv").write_text("a,b,class\n1,two,x\n3,4,y\n")
    assert "two" in kdtool(environment, "run", "--task", "table", "--data", "bad.csv", cwd=place, code=2)
    assert "no such file" in kdtool(environment, "run", "--task", "table", "--data", "none.csv", cwd=place, code=2)
    said = kdtool(environment, "run", "--task", "table", "--student", "wide", cwd=place, code=2)
    assert "expected widths of hidden layers" in said


@pytest.mark.slow  # following plugins/README.md does the same
def test_it_passes_the_conformance_kit(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_table.py").write_text(
        "from kdtool.testing import parametrize_with_task_checks\n\n"
        "@parametrize_with_task_checks('table')\ndef test_conformance(check):\n    check()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_table.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "15 passed" in done.stdout
