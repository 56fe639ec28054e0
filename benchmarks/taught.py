"""A teacher's text: what a student of 17 million parameters learns from SmolLM2-135M-Instruct's answers to sums.

    python benchmarks/taught.py [--root .] [--run WORD] [--seeds 3]

``--root`` holds ``models/SmolLM2-135M-Instruct.Q4_1.gguf``; ``data/taught`` and ``runs/`` are written there. With
``--run`` the teacher is asked for what it has not answered yet, and every run whose folder's name has that word in it,
and whose notes are missing, is made or gone on with. Questions, and which solved ones the teacher is shown, follow from
a fixed seed. The page is made of notes alone, which are kept beside this file, in ``runs/taught``: those of runs, with
the share of test questions whose answer is right, and the cards of what the teacher wrote.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marked  # beside this file
import papers
import tables
from papers import Row

import kdtool

BEGIN, END = "<!-- taught: made by benchmarks/taught.py -->", "<!-- end of taught -->"
TEACHER = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA, NOTES = Path("data/taught"), papers.HERE / "runs" / "taught"
SOLVED, ASKED, TESTED = 64, 1000, 200
"""Questions whose answers are known to all, those that the teacher is asked, and those that students are tested on."""
NAMES, THINGS = ("Ann", "Ben", "Eva", "Leo", "Mia", "Tom"), ("apples", "books", "coins", "pens")
NUMBER = r"(-?\d+)"
"""What finds a final answer: the last number."""
ACCURACY = "accuracy.json"
STYLE = r"""
about: After four solved ones, why, and then the number behind ####.
demonstrations: {draw: 4}
messages:
  - for: demonstrations
    messages:
      - {role: user, content: "{question}"}
      - {role: assistant, content: "{answer}"}
  - {role: user, content: "{question}"}
reads: '(?s)\A(?P<rationale>.+?)\s*####\s*(?P<label>-?\d+)\s*\Z'
samples:
  - messages:
      - {role: user, content: "{question}"}
      - {role: assistant, content: "LEARNT"}
"""
"""How the teacher is asked, as ``--style`` takes it, and what is learnt of its answer."""


@dataclass(frozen=True)
class Sum:
    """A question of one step, its answer, and why."""

    question: str
    why: str
    answer: int

    def row(self, rationale: bool) -> dict[str, str]:
        """Return it as a line of a file."""
        return {
            "question": self.question,
            "answer": f"{self.why} #### {self.answer}" if rationale else str(self.answer),
        }


def sums(count: int, seed: int) -> list[Sum]:
    """Return different questions; the same ones for the same seed."""
    draw = random.Random(seed)
    found: dict[str, Sum] = {}
    while len(found) < count:
        name, thing = draw.choice(NAMES), draw.choice(THINGS)
        one, other = draw.randint(2, 20), draw.randint(1, 19)
        if draw.random() < 0.5:
            said, asked = f"{name} has {one} {thing} and gets {other} more", f"How many {thing} does {name} have now?"
            each = Sum(f"{said}. {asked}", f"{said}, so {one} + {other} = {one + other}.", one + other)
        else:
            one, other = max(one, other), min(one, other)
            said, asked = f"{name} has {one} {thing} and gives {other} away", f"How many {thing} does {name} have left?"
            each = Sum(f"{said}. {asked}", f"{said}, so {one} - {other} = {one - other}.", one - other)
        found.setdefault(each.question, each)
    return list(found.values())


EVERY = sums(SOLVED + ASKED + TESTED, seed=0)
PARTS = {"solved": EVERY[:SOLVED], "asked": EVERY[SOLVED:-TESTED], "tested": EVERY[-TESTED:]}


# --- sets -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Set:
    """What a student learns.

    Attributes:
        name: of its folder.
        rationale: answers come with why.
        part: the questions.
        taught: the teacher answers them; else the known answers are taken.
        right: of its answers those alone that are right.
    """

    name: str
    rationale: bool
    part: str = "asked"
    taught: bool = True
    right: bool = False

    @property
    def folder(self) -> Path:
        return DATA / self.name

    def make(self) -> None:
        """Write it, asking the teacher only for what it has not answered yet."""
        if not self.taught:
            write(self.folder / "train.jsonl", PARTS[self.part], self.rationale)
        else:
            asked = RATIONALES.folder / "asked"
            if self.part == RATIONALES.part and asked.is_dir() and not self.folder.is_dir():
                shutil.copytree(asked, self.folder / "asked")  # the same answers, of which it learns something else
            style = DATA / f"learns-{'all' if self.rationale else 'label'}.yaml"
            questions = write(DATA / f"{self.part}.jsonl", PARTS[self.part], True)
            solved = write(DATA / "solved.jsonl", PARTS["solved"], True)
            style.write_text(STYLE.replace("LEARNT", "{completion}" if self.rationale else "{label}"))
            card = kdtool.generate(
                TEACHER, questions, self.folder, style=str(style), demonstrations=solved, answer=NUMBER, new_tokens=48,
                keep_correct=self.right,
            )  # fmt: skip
            NOTES.mkdir(parents=True, exist_ok=True)
            (NOTES / f"{self.name}.json").write_text(json.dumps(card, indent=2) + "\n")
        write(self.folder / "test.jsonl", PARTS["tested"], self.rationale)

    @property
    def card(self) -> dict[str, Any] | None:
        """What was kept of how it was made."""
        path = NOTES / f"{self.name}.json"
        return json.loads(path.read_text()) if path.exists() else None


def write(path: Path, some: list[Sum], rationale: bool) -> Path:
    """Write questions with their answers, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each.row(rationale)) + "\n" for each in some))
    return path


RATIONALES, ANSWERS = Set("rationales", True), Set("answers", False)
RIGHT = [Set(f"{each.name}-right", each.rationale, right=True) for each in (RATIONALES, ANSWERS)]
TESTED_TEACHER = Set("test-right", True, "tested", right=True)
"""The teacher's answers to the test questions: how many of them are right."""
FEW = Set("solved", True, "solved", taught=False)
KNOWN = Set("known", True, taught=False)

HOW = "taught/student_17m.yaml data.val_fraction=0 train.select=last train.batch_size=16 checkpoint.every_epochs=5"
LONG = 155
"""Epochs of the few solved questions that are as many steps as ten of all: 4 whole batches each, not 62."""


def _row(what: str, of: Set, epochs: int = 10) -> tuple[Row, Set]:
    command = f"{HOW} data.name={of.folder} train.epochs={epochs} train.seed={{seed}}"
    return Row(what, "", command, f"taught/{of.name}"), of


ROWS = [
    _row(f"no teacher: the {SOLVED} solved questions that it is shown", FEW, LONG),
    _row("the teacher's answers, the number alone", ANSWERS),
    _row("those of them that are right", RIGHT[1]),
    _row("its rationales and answers", RATIONALES),
    _row("those of them that are right", RIGHT[0]),
    _row("no teacher: known rationales and answers to all questions", KNOWN),
]


# --- runs -------------------------------------------------------------------------------------------------------------


def run(row: Row, seed: int) -> None:
    """Make one run, or go on with it, and let the student answer the test questions."""
    papers.run(row, seed)
    folder = row.folder(seed)
    if not (folder / ACCURACY).exists():
        command = [sys.executable, "-m", "kdtool", "eval", str(folder), "--answer", NUMBER, "--json"]
        found = subprocess.run([*command, "--new-tokens", "32"], check=True, capture_output=True, text=True).stdout
        measured = json.loads(found)
        kept = {"exact_match": measured["metrics"]["exact_match"], "answers": measured["answers"]}
        (folder / ACCURACY).write_text(json.dumps(kept, indent=2) + "\n")


def keep(row: Row, seed: int) -> None:
    """Copy a run's notes to where the page is made from, once all of them are there."""
    folder = row.folder(seed)
    if (folder / ACCURACY).exists() and folder.resolve() != papers.HERE / folder:
        papers.keep(row, seed)
        shutil.copyfile(folder / ACCURACY, papers.HERE / folder / ACCURACY)


def accuracies(row: Row, seeds: int) -> dict[int, float]:
    """Return of each seed that has notes the share of right answers in percent."""
    paths = {seed: papers.HERE / row.folder(seed) / ACCURACY for seed in range(seeds)}
    return {seed: 100 * float(json.loads(path.read_text())["exact_match"]) for seed, path in paths.items()
            if path.exists() and papers.finished(row, seed, papers.HERE) is not None}  # fmt: skip


# --- table ------------------------------------------------------------------------------------------------------------


def page(seeds: int) -> Iterator[str]:
    """Yield the section's lines, with the rows that have runs; nothing without any."""
    found = {row: values for row, _ in ROWS if (values := accuracies(row, seeds))}
    if not found:
        return
    runs = [run for row, values in found.items() for seed in values if (run := papers.finished(row, seed, papers.HERE))]
    reference = found.get(ROWS[0][0], {})
    yield "## A teacher's text: sums of one step"
    yield ""
    yield (
        f"SmolLM2-135M-Instruct (4-bit weights) answers {ASKED:,} questions, each after 4 of {SOLVED} solved ones, "
        "with why and then the number. A student of 4 layers and width 256, from scratch and with the "
        "teacher's tokens, learns from that text, without the solved ones in front. Ten epochs each; the solved "
        f"questions alone {LONG}, which are as many steps. Right are answers whose last number is the known one, of "
        f"{TESTED} questions that nobody saw. {_teacher()}Means of the seeds, with Student's 95% intervals; "
        "of differences, paired by seed."
    )
    yield ""
    yield "| a student learns | samples | right, % | more than without a teacher | seeds | s a run |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row, of in ROWS:
        if row in found:
            both = {seed: value for seed, value in found[row].items() if seed in reference}
            gain = tables.gain_of(both, {seed: reference[seed] for seed in both}) if both and of is not FEW else ""
            own = [each["result"] for seed in found[row] if (each := papers.finished(row, seed, papers.HERE))]
            seconds = sum(each["seconds"]["total"] for each in own) / len(own)
            cells = [row.what, f"{own[0]['data']['train']:,}", tables.mean_of(found[row]), gain]
            yield f"| {' | '.join([*cells, ', '.join(map(str, found[row])), f'{seconds:.0f}'])} |"
    yield ""
    yield f"On: {papers.machine_of(runs)}. By `python benchmarks/taught.py --run taught`, which asks the teacher, and:"
    yield ""
    yield from (f"    {papers.command_of(row)}" for row in found)
    yield ""


def _teacher() -> str:
    """Return how often the teacher itself is right on the test questions."""
    card = TESTED_TEACHER.card
    if card is None:
        return ""
    (correct,) = [each for each in card["filters"] if each["name"] == "correct"]
    return f"The teacher itself: {100 * correct['after'] / card['requests']['answered']:.1f}%. "


def main() -> None:
    """Ask and run what is missing, and write the table."""
    args = papers.arguments(__doc__, 3)
    os.chdir(args.root)
    if args.run:
        for of in (RATIONALES, ANSWERS, *RIGHT, TESTED_TEACHER, FEW, KNOWN):
            of.make()
    for seed in range(args.seeds):
        for row, _ in ROWS:
            if args.run and args.run in row.name and seed not in accuracies(row, seed + 1):
                run(row, seed)
            keep(row, seed)
    marked.write(BEGIN, END, "".join(f"{line}\n" for line in page(args.seeds)))


if __name__ == "__main__":
    main()
