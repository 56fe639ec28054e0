"""A stranger's pip package with a method: installed, listed, shown and run like a built-in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.packages import install, kdtool
from tests.running import STUDENT, TEACHER

PACKAGE = Path(__file__).with_name("example_plugin")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment that sees the example package."""
    return install(PACKAGE, tmp_path_factory)


def test_it_is_listed_with_its_distribution(environment: dict[str, str]) -> None:
    methods = {each["name"]: each for each in json.loads(kdtool(environment, "list-methods", "--json"))}
    ours = methods["example_mimic"]
    assert (ours["distribution"], ours["version"], ours["error"]) == ("kdtool-example", "1.2.3", None)
    assert (ours["year"], ours["knowledge"], ours["scheme"]) == (2014, "response", "offline")


def test_it_runs_with_its_option(environment: dict[str, str], tmp_path: Path) -> None:
    flags = {"--method": "example_mimic", "--teacher": TEACHER, "--student": STUDENT}
    flags |= {"--epochs": "1", "--device": "cpu", "--out": "out"}
    for name, grey in (("dark", 20), ("light", 220)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("L", (32, 32), grey + i).save(tmp_path / "images" / name / f"{i}.png")
    flags |= {"--data": "images"}
    overrides = ["example_mimic.weight=0.5", "teacher.train.epochs=1", "teacher.check=off"]
    arguments = [text for pair in flags.items() for text in pair] + overrides
    result = json.loads(kdtool(environment, "run", "--json", *arguments, cwd=tmp_path))
    assert result["method"] == "example_mimic"
    assert result["data"]["classes"] == 2
    terms = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])["train"]
    assert "mimic" in terms
