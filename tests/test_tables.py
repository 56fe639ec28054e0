"""Benchmarks' tables beside a reference: of the seeds that all rows have, paired; commands that resolve."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from kdtool.recipe import load as recipes

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(params=["language", "sentences"])
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(request.param)


def test_every_command_resolves_and_folders_are_apart(benchmark: ModuleType) -> None:
    rows = [row for table in benchmark.TABLES for row in benchmark.tables.rows_of(table)]
    for row in rows:
        path, *overrides = row.arguments(3)
        recipe = recipes.load(path, overrides)
        assert recipe.train.seed == 3
        assert recipe.train.select == "last"
    assert len({row.folder(3) for row in rows}) == len(rows)


def _finished(root: Path, benchmark: ModuleType, row: object, seed: int, perplexity: float) -> None:
    """Write the notes of a run as if it had been made."""
    path, *overrides = row.arguments(seed)  # type: ignore[attr-defined]
    folder = root / row.folder(seed)  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipes.to_yaml(recipes.load(path, overrides)))
    (folder / "metrics.jsonl").write_text("")
    test = {"student": {"perplexity": perplexity, "top1": perplexity / 1000}, "teacher": {"perplexity": 5.0, "top1": 1}}
    result = {"test": test, "device": "cpu", "threads": 1, "seed": seed}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "environment.json").write_text(json.dumps({"torch": "2"}))


def test_a_table_takes_the_seeds_that_all_rows_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    language, tables = importlib.import_module("language"), importlib.import_module("tables")
    table = language.TABLES[0]
    rows = tables.rows_of(table)
    for number, row in enumerate(rows):
        for seed in (0, 2) if number else (0, 1, 2):
            _finished(tmp_path, language, row, seed, 100 + 10 * number + (seed * (1 + number % 2)))
    found = tables.table_of(table, tmp_path)
    assert "| alone | 101.0 (88.3 to 113.7) |  |" in found
    # 110 and 114 beside 100 and 102: 10 and 12 more, whose deviation is sqrt 2, and Student's t of one freedom 12.706.
    assert "| `kd` | 112.0 (86.6 to 137.4) | +11.0 (-1.7 to +23.7) |" in found
    assert any("Means of 2 seeds" in line and "Teacher: 5.0." in line for line in found)
    (tmp_path / rows[1].folder(0) / "result.json").unlink()
    assert any("One seed" in line for line in tables.table_of(table, tmp_path))
    (tmp_path / rows[2].folder(2) / "result.json").unlink()
    assert tables.table_of(table, tmp_path) == []
