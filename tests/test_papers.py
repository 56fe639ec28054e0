"""The page of published experiments: commands that resolve, and tables made of run folders alone."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import kdtool
from kdtool.recipe import load as recipes

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = "digits/mobilenetv3_from_resnet50_kd.yaml method=none student.model=test_efficientnet train.epochs=1 "
TINY += "data.labels_per_class=10 data.exclude_classes=[3] train.select=last data.watch_test=true train.seed={seed}"


@pytest.fixture
def papers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("papers")


def test_every_command_resolves_and_folders_are_apart(papers: ModuleType) -> None:
    folders = []
    for row in (row for table in papers.TABLES for row in table.rows):
        path, *overrides = row.arguments(3)
        assert recipes.load(path, overrides).train.seed == 3
        folders.append(row.folder(3))
    assert len(set(folders)) == len(folders)


def test_a_table_is_made_of_its_runs(papers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = papers.Row("tiny", "42", TINY, "tiny", unseen=3)
    assert papers.table_of(papers.Table("T", "about", "errors", [row]), 2, tmp_path) == []
    errors, top1 = [], []
    for seed in range(2):
        path, *overrides = row.arguments(seed)
        recipe = recipes.load(path, overrides)
        recipe.out = str(row.folder(seed))
        result = kdtool.run(recipe).to_dict()
        papers.raised_bias.write(row.folder(seed), 3)
        top1.append(100 * result["test"]["student"]["top1"])
        errors.append(round((1 - result["test"]["student"]["top1"]) * result["data"]["test"]))
        raised = json.loads((row.folder(seed) / "raised.json").read_text())
        assert raised["not raised"]["errors"] == errors[-1]
        assert raised["not raised"]["on_class"] == raised["of_class"] == 37
        assert raised["by best"]["errors"] < errors[-1]
    text = "\n".join(papers.table_of(papers.Table("T", "about", "errors", [row]), 5, tmp_path))
    assert f"| tiny | 42 | {sum(errors) / 2:.1f} ± " in text
    assert f"({errors[0]}, {errors[1]}); with its bias raised by 3.5: " in text
    assert "    kdtool run digits/mobilenetv3_from_resnet50_kd.yaml method=none " in text
    assert re.search(r"On: .+, device \w+(:\d)?, \d+ threads?, torch \d", text)
    accuracy = "\n".join(papers.table_of(papers.Table("T", "about", "top-1", [row]), 5, tmp_path))
    mean = f"{sum(top1) / 2:.2f} ± "
    assert accuracy.count(mean) == 2  # after one epoch the last is the best

    monkeypatch.setattr(papers, "HERE", tmp_path / "notes")
    papers.keep(row, 0)
    assert papers.finished(row, 0, papers.HERE) == papers.finished(row, 0, tmp_path)
    assert papers.finished(row, 1, papers.HERE) is None

    other = row.folder(1) / "recipe.yaml"
    other.write_text(other.read_text().replace("epochs: 1\n", "epochs: 2\n"))
    with pytest.raises(SystemExit, match=r"tiny-1 is not the run of .*train\.epochs=2 instead of 1"):
        papers.table_of(papers.Table("T", "about", "errors", [row]), 5, tmp_path)
