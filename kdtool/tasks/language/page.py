"""A run's page: student, teachers and baseline measured again, place by place, and what they answer side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.events import Metric
from kdtool.report.sections import Fact, Network, RunSections, Section, Table
from kdtool.tasks.common.targets import result_of
from kdtool.tasks.language.evaluation.evaluate import UNIT, evaluate
from kdtool.tasks.task import Say
from kdtool.terminal import words

ANSWERS, NEW_TOKENS = 6, 64
"""How many prompts are answered, and how long at most."""

LONGEST = 600
"""Characters of a text that are shown."""


def sections(run: Path, say: Say) -> RunSections:
    """Return what a run's page shows of its language models.

    Args:
        run: its folder.
        say: takes sentences for the user.

    Raises:
        InputError: the run has no student yet, or its data are not there.
    """
    say(f"{run}: measuring on the test split, and letting the networks answer")
    found = evaluate(run, generate=ANSWERS, new_tokens=NEW_TOKENS)
    alone = run / "baseline" / "student"
    baseline = evaluate(alone, generate=ANSWERS, new_tokens=NEW_TOKENS) if alone.is_dir() else None
    result = result_of(run)
    if "student" not in result:
        raise InputError(f"{run} is not finished: kdtool run --resume {run} finishes it.")
    cards: list[Section] = [_answers(found, baseline), *(_places(each) for each in found["teachers"])]
    return RunSections(
        cards,
        _networks(found, baseline, result["student"]["name"], Metric.of(result)),
        _facts(found["teachers"]),
        found["data"]["inputs"],
        notes=found["notes"],
        document={"evaluation": found, "baseline": baseline},
    )


def _networks(
    found: Mapping[str, Any], baseline: Mapping[str, Any] | None, student: str, metric: Metric
) -> list[Network]:
    lines = [(part, each, each["name"]) for part, each in words.numbered(found["teachers"])]
    lines += [("student", {**found["target"], "metrics": found["metrics"]}, student)]
    lines += [("baseline", {**baseline["target"], "metrics": baseline["metrics"]}, student)] if baseline else []
    return [
        Network(
            part, name, each["metrics"][metric.key],
            {
                "nats a token": f"{each['metrics']['nll']:.4f}",
                "top-1": words.percent(each["metrics"]["top1"]),
                "ROUGE-L": words.percent(each["metrics"].get("rouge_l")),
                "student agrees": words.percent(each.get("agreement")),
                "KL": f"{each['kl']:.4f}" if "kl" in each else "-",
            },
            each["params"], each["macs"], each["bytes"],
        )
        for part, each, name in lines
    ]  # fmt: skip


def _answers(found: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> Table:
    rows = [dict(sample["written"]) for sample in found["answers"]["samples"]]
    if baseline:
        for row, sample in zip(rows, baseline["answers"]["samples"], strict=True):
            row["baseline"] = sample["written"]["student"]
    parts = list(rows[0])
    cells = [
        [_short(sample["prompt"], end=True), _short(sample["reference"]), *(_short(row[part]) for part in parts)]
        for sample, row in zip(found["answers"]["samples"], rows, strict=True)
    ]
    about = f"Greedy, at most {found['answers']['new_tokens']} tokens; the first {UNIT} of the test split."
    return Table("Answers side by side", ["prompt", "reference", *parts], cells, numbers=2 + len(parts), about=about)


def _places(teacher: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"{row['from']} to {row['to'] - 1}" if row["to"] is not None else f"from {row['from']}",
            str(row["tokens"]), words.percent(row["agreement"]), f"{row['kl']:.4f}",
        ]
        for row in teacher["positions"]
    ]  # fmt: skip
    about = "KL(teacher || student) in nats, and how often both take the same token for the likeliest."
    titles = ["place in a sample", "tokens", "agreement", "KL"]
    return Table(f"Student beside {teacher['name']}, by place", titles, rows, numbers=1, about=about)


def _facts(teachers: Sequence[Mapping[str, Any]]) -> list[Fact]:
    return [("agrees with the teacher", words.percent(teachers[0]["agreement"]))] if teachers else []


def _short(text: str, end: bool = False) -> str:
    """Return a text, or the beginning (or end) of a long one."""
    if len(text) <= LONGEST:
        return text
    return f"…{text[-LONGEST:]}" if end else f"{text[:LONGEST]}…"
