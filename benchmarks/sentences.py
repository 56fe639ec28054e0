"""Sentences: a BERT's students on 8,000 phrases of SST-2; runs what is missing and writes the tables of BENCHMARKS.md.

    python benchmarks/sst2_draw.py GLUE_FOLDER
    python benchmarks/sentences.py [--root .] [--run WORD] [--seeds 5]

``--root`` holds ``data/sst2``, as ``sst2_draw.py`` writes it, ``models/all-minilm-l6-v2`` and ``runs/``. Runs, their
notes and the check that a run is that of its command are those of ``papers.py``. A table takes the seeds that all of
its rows have.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marked  # beside this file
import papers
from papers import Row

from kdtool.comparison.statistics import paired

BEGIN, END = "<!-- sentences: made by benchmarks/sentences.py -->", "<!-- end of sentences -->"

AS = "train.seed={seed} teacher.check=off"
CACHED = f"{AS} cache.mode=build"
BILSTM = "sst2/bilstm_from_minilm_logits.yaml"
VIEWS = "data.mask=0.1 data.replace=0.1 data.ngram=0.25 data.views=8"
TINY = "sst2/transformer_2_from_minilm.yaml"


@dataclass(frozen=True)
class Line:
    """One line of a table: what is trained on, at equal epochs and at equal steps.

    Attributes:
        what: shown in the first column.
        rows: by column, the runs; the same ones where both budgets are one.
    """

    what: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table: its title, what is said about it, its columns, and its lines, the first of which is the reference."""

    title: str
    text: str
    columns: tuple[str, ...]
    lines: list[Line]


def _small(what: str, more: str, name: str) -> Line:
    """Return a line on the 8,000 phrases: two epochs of them, and as many steps as two epochs of all phrases take."""
    return Line(
        what,
        (
            Row(what, "", f"{BILSTM} {more} train.epochs=2", f"sst2/bilstm-{name}-epochs"),
            Row(what, "", f"{BILSTM} {more}", f"sst2/bilstm-{name}"),
        ),
    )


def _large(what: str, more: str, name: str) -> Line:
    """Return a line on all phrases, two epochs of which are both budgets."""
    row = Row(what, "", f"{BILSTM} {more} train.epochs=2", f"sst2/bilstm-{name}")
    return Line(what, (row, row))


def _method(what: str, method: str, more: str) -> Line:
    return Line(what, (Row(what, "", f"{TINY} method={method} {more}", f"sst2/tiny-{method}"),))


TABLES = [
    Table(
        "SST-2: a BiLSTM from a BERT",
        "Accuracy on GLUE's 872 development sentences, by the setting of Tang et al., 2019: squared error of logits, "
        "no hard labels. The teacher, a BERT of 6 layers and width 384, is fine-tuned once on the 8,000 labelled "
        "phrases that the first three rows train on; the unlabelled phrases are the other 59,349 of the training file. "
        "Two epochs of 8,000 phrases are 124 steps of 128, of all phrases 1,052; 17 epochs of 8,000 are 1,054. Nothing "
        "is chosen by the sentences that are measured: all settings were fixed beforehand, and the last epoch counts.",
        ("2 epochs each", "1,052 steps each"),
        [
            _small("alone, on 8,000 labels", f"{AS} method=none", "alone"),
            _small("distilled, on the same phrases", CACHED, "logits"),
            _small("distilled, on views of the same phrases", f"{CACHED} {VIEWS}", "views"),
            _large(
                "distilled, on them and the unlabelled phrases",
                f"{CACHED} data.unlabelled=data/sst2/rest.txt",
                "unlabelled",
            ),
            _large("alone, on all 67,349 labels", f"{AS} method=none data.name=data/sst2/all", "all"),
        ],
    ),
    Table(
        "SST-2: a BERT of two layers, by method",
        "The same teacher and the same 8,000 phrases; a student of two layers, width 192 and 12 heads, from scratch, "
        "five epochs of 125 steps for every method. The methods' own papers start from a trained language model.",
        ("accuracy",),
        [
            _method("alone", "none", AS),
            _method("`kd`", "kd", CACHED),
            _method("`distilbert`", "distilbert", AS),
            _method("`pkd`", "pkd", AS),
            _method("`tinybert`", "tinybert", AS),
            _method("`minilm`, queries, keys and values", "minilm", AS),
        ],
    ),
]


def rows_of(table: Table) -> list[Row]:
    """Return a table's rows, each once."""
    return list(dict.fromkeys(row for line in table.lines for row in line.rows))


def table_of(table: Table, seeds: int, root: Path) -> list[str]:
    """Return a table in Markdown, of the seeds that all of its rows have; nothing without any."""
    found = {row: {seed: run for seed in range(seeds) if (run := papers.finished(row, seed, root))}
             for row in rows_of(table)}  # fmt: skip
    common = sorted(set.intersection(*(set(runs) for runs in found.values())))
    if not common:
        return []
    accuracy = {row: {seed: top1_of(found[row][seed]) for seed in common} for row in found}
    head = [f"{column} | more than alone" for column in table.columns]
    lines = [f"| student | {' | '.join(head)} |", "|" + " --- |" * (1 + 2 * len(head))]
    for line in table.lines:
        cells = [line.what]
        for row, reference in zip(line.rows, table.lines[0].rows, strict=True):
            cells += [mean_of(accuracy[row]), "" if row is reference else gain_of(accuracy[row], accuracy[reference])]
        lines.append(f"| {' | '.join(cells)} |")
    runs = [found[row][seed] for row in found for seed in common]
    teacher = {run["result"]["test"]["teacher"]["top1"] for run in runs if run["result"]["test"].get("teacher")}
    said = [
        f"Teacher: {', '.join(f'{100 * each:.1f}' for each in sorted(teacher))}.",
        f"Means of {len(common)} seeds of the student, with Student's 95% intervals over them; of differences, paired "
        "by seed."
        if len(common) > 1
        else "One seed of the student.",
        "The test sentences' own standard error is about 1.3 points.",
    ]
    how = [f"On: {papers.machine_of(runs)}. By:", "", *(f"    {papers.command_of(row)}" for row in found), ""]
    return [f"## {table.title}", "", " ".join([table.text, *said]), "", *lines, "", *how]


def top1_of(run: dict[str, Any]) -> float:
    """Return a run's accuracy in percent."""
    return 100 * float(run["result"]["test"]["student"]["top1"])


def mean_of(values: dict[int, float]) -> str:
    """Return a mean and its interval: "74.0 (73.1 to 74.9)"."""
    found = paired(values, dict.fromkeys(values, 0.0))
    return f"{found['mean']:.1f}" + ("" if found["low"] is None else f" ({found['low']:.1f} to {found['high']:.1f})")


def gain_of(values: dict[int, float], reference: dict[int, float]) -> str:
    """Return a paired difference and its interval: "+6.1 (+5.0 to +7.2)"."""
    found = paired(values, reference)
    between = "" if found["low"] is None else f" ({found['low']:+.1f} to {found['high']:+.1f})"
    return f"{found['mean']:+.1f}{between}"


def main() -> None:
    """Run what is missing and write the tables."""
    args = papers.arguments(__doc__, 5)
    os.chdir(args.root)
    for seed in range(args.seeds):
        for row in (row for table in TABLES for row in rows_of(table)):
            if args.run and args.run in row.name and papers.finished(row, seed) is None:
                papers.run(row, seed)
            papers.keep(row, seed)
    body = "\n".join(line for table in TABLES for line in table_of(table, args.seeds, papers.HERE))
    marked.write(BEGIN, END, body)


if __name__ == "__main__":
    main()
