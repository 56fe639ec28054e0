"""What students learn of a generated set, by the recipes that are shipped for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import kdtool
from kdtool.recipe import load as recipes
from tests.generation.files import questions, samples
from tests.generation.serving import Plan, serve
from tests.tasks.language.small import TASK


def opened(recipe: str, data: Path) -> Any:
    flags = {"data.name": str(data), "student.tokenizer": "own", "data.vocab_size": 300, "data.val_fraction": 0.0}
    return TASK.open(recipes.load(recipe, flags=flags))


def pairs(data: Any) -> list[tuple[str, str]]:
    """Return of every training sample what is read, and what is learnt of it."""
    found = []
    for row in data.train.rows.tolist():
        ids, learnt = data.train.samples[row]
        found.append((str(data.tokens.library.decode(ids)), str(data.tokens.library.decode(ids[learnt]))))
    return found


@pytest.mark.parametrize(("style", "recipe", "turns"), [("icl", "in_context", 1), ("icl-meta", "in_context_meta", 5)])
def test_demonstrations_are_the_teachers_and_the_students_where_it_is_to_use_them(
    tmp_path: Path, style: str, recipe: str, turns: int
) -> None:
    plan = Plan(answer=lambda messages, seed: f"It is {len(messages)}: {messages[-1]['content']}")
    asked = questions(tmp_path / "q.jsonl", 12)
    with serve(plan) as address:
        kdtool.generate(address, asked, tmp_path / "out", style=style)
    assert all(len(body["messages"]) == 9 for body in plan.bodies)
    found = pairs(opened(f"taught/{recipe}.yaml", tmp_path / "out"))
    assert len(found) == 10
    for read, learnt in found:
        assert read.count("<|im_start|>assistant") == turns
        # The shown answers are read, and nothing of them is learnt.
        assert ("####" in read) == (style == "icl-meta")
        assert learnt.startswith("It is 9: What is")
        assert learnt.count("<|im_end|>") == 1


def test_several_chains_of_thought_that_come_to_the_known_answer(tmp_path: Path) -> None:
    def thinks(messages: list[dict[str, str]], seed: int) -> str:
        number = int(messages[-1]["content"].split()[2])
        return f"Way {seed % 1000} of many.\n#### {2 * number + 1 + (seed % 3 == 0)}"

    with serve(Plan(answer=thinks)) as address:
        card = kdtool.generate(address, questions(tmp_path / "q.jsonl", 12), tmp_path / "out", style="cot", samples=8,
                               answer="gsm8k", keep_correct=True)  # fmt: skip
    assert card["requests"]["answered"] == 96
    assert 12 < card["samples"]["count"] < 96
    kept = samples(tmp_path / "out")
    assert max(sum(each["messages"][0] == other["messages"][0] for other in kept) for each in kept) > 2
    for read, learnt in pairs(opened("taught/fine_tune_cot.yaml", tmp_path / "out")):
        number = int(read.split("What is ")[1].split()[0])
        assert learnt == f"{learnt.split('####')[0]}#### {2 * number + 1}<|im_end|>"
        assert "step by step" not in read
