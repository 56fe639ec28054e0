"""The benchmark of a teacher's text: questions that are right, and commands that resolve."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from kdtool.recipe import load as recipes

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("taught")


def test_questions_are_right_and_nobody_is_tested_on_what_was_learnt(taught: ModuleType) -> None:
    every = [each for part in taught.PARTS.values() for each in part]
    assert len({each.question for each in every}) == len(every) == taught.SOLVED + taught.ASKED + taught.TESTED
    for each in every:
        one, other = map(int, re.findall(r"\d+", each.question))
        assert each.answer == (one + other if " gets " in each.question else one - other) >= 0
        assert each.why.endswith(f"= {each.answer}.")
        assert re.findall(r"\d+", each.why)[:2] == re.findall(r"\d+", each.question)
        for rationale in (True, False):
            assert re.findall(taught.NUMBER, each.row(rationale)["answer"])[-1] == str(each.answer)
    assert taught.sums(50, 1) == taught.sums(50, 1) != taught.sums(50, 2)


def test_students_learn_the_number_or_all_of_the_same_answers(taught: ModuleType, tmp_path: Path) -> None:
    from kdtool.generation.rows import Row
    from kdtool.generation.style import style_of

    asked, learnt = [], []
    for name, what in (("all", "{completion}"), ("label", "{label}")):
        (tmp_path / f"{name}.yaml").write_text(taught.STYLE.replace("LEARNT", what))
        style = style_of(str(tmp_path / f"{name}.yaml"))
        row = Row("1", taught.EVERY[0].row(True))
        values = style.read("Ann has 3 and 4, so 3 + 4 = 7.\n#### 7")
        assert values is not None
        assert style.read("7") is None
        asked.append(style.ask(row, [taught.EVERY[1].row(True)]))
        learnt.append(style.write(row, values)[0]["messages"][-1]["content"])
    assert asked[0] == asked[1]
    assert learnt == ["Ann has 3 and 4, so 3 + 4 = 7.\n#### 7", "7"]


def test_every_command_resolves_and_takes_as_many_steps(taught: ModuleType) -> None:
    folders, steps = set(), {}
    for row, of in taught.ROWS:
        path, *overrides = row.arguments(2)
        recipe = recipes.load(path, overrides)
        assert (recipe.train.seed, recipe.data.name, recipe.method) == (2, str(of.folder), "none")
        folders.add(row.folder(2))
        steps[of] = recipe.train.epochs * (len(taught.PARTS[of.part]) // recipe.train.batch_size)
    assert len(folders) == len(taught.ROWS)
    assert len(set(steps.values())) == 1


def test_the_page_holds_what_ran_and_nothing_else(
    taught: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taught.papers, "HERE", tmp_path)
    monkeypatch.setattr(taught, "NOTES", tmp_path / "runs" / "taught")
    assert list(taught.page(3)) == []
    row, _ = taught.ROWS[0]
    for seed, share in ((0, 0.25), (1, 0.35)):
        folder = tmp_path / row.folder(seed)
        folder.mkdir(parents=True)
        (folder / taught.ACCURACY).write_text(json.dumps({"exact_match": share}))
    assert list(taught.page(3)) == []  # without a run's own notes
    path, *overrides = row.arguments(0)
    for seed in (0, 1):
        folder = tmp_path / row.folder(seed)
        result = {"seed": seed, "seconds": {"total": 7.0}, "data": {"train": 64}, "device": "cpu", "threads": 1}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "environment.json").write_text(json.dumps({"torch": "2.6"}))
        (folder / "metrics.jsonl").write_text("")
        (folder / "recipe.yaml").write_text(recipes.to_yaml(recipes.load(path, [*overrides, f"train.seed={seed}"])))
    lines = list(taught.page(3))
    (found,) = [line for line in lines if line.startswith(f"| {row.what}")]
    assert found.startswith(f"| {row.what} | 64 | 30.0 (")
    assert found.endswith(" | 0, 1 | 7 |")
    assert sum(line.startswith("    kdtool run ") for line in lines) == 1
