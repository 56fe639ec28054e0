"""Language models: perplexities of a small student by method; runs what is missing and writes a part of BENCHMARKS.md.

    python benchmarks/language.py [--root .] [--run WORD] [--seeds 3]

``--root`` holds ``models/SmolLM2-135M-Instruct.Q4_1.gguf``, ``data/gsm8k`` (GSM8K's ``train.jsonl`` and ``test.jsonl``
as published, Cobbe et al., 2021) and ``runs/``. Every row takes the same student steps over the same samples. Runs,
their notes and the check that a run is that of its command are those of ``papers.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import marked  # beside this file
import papers
import tables
from papers import Row
from tables import Figure, Line, Table

BEGIN, END = "<!-- language: made by benchmarks/language.py -->", "<!-- end of language -->"
PUBLISHED, DRAWN = Path("data/gsm8k"), Path("data/gsm8k-few")
LEARNT, TESTED = 320, 200
"""Questions of GSM8K, the first of each of its files, that are learnt and tested on."""
PERPLEXITY = Figure(lambda test: float(test["perplexity"]), 1, "beside alone")

FROM_SCRATCH = "language/llama_4x256_from_smollm2.yaml train.seed={seed}"
KEPT = "cache.mode=build cache.top_k=64 data.views=1"
CUT = "student.from_teacher.layers=8 student.from_teacher.width=0.5 student.model_args={{}} student.tokenizer=auto"


def _lines(data: str, name: str) -> list[Line]:
    begin = f"{FROM_SCRATCH} {data}"
    return [
        Line(what, (Row(what, "", f"{begin} {command}".replace("  ", " "), f"language/{name}-{each}"),))
        for each, what, command in (
            ("alone", "alone", "method=none"),
            ("kd", "`kd`", f"method=kd {KEPT}"),
            ("gkd", "`gkd`, on the given text", f"method=gkd {KEPT}"),
            ("distillm", "`distillm`, on the given text", f"method=distillm {KEPT}"),
            ("on-policy", "`gkd`, half of the batches written by the student", "method=gkd gkd.on_policy=0.5"),
            ("seqkd", "`seqkd`: what the teacher writes, greedily", "method=seqkd"),
            ("cut", "8 layers cut from the teacher, half as wide, alone", f"method=none {CUT} optim.lr=0.0005"),
            ("cut-kd", "the same, `kd`", f"method=kd {KEPT} {CUT} optim.lr=0.0005"),
        )
    ]


TABLES = [
    Table(
        "Language models: GSM8K's answers",
        "Perplexity of the answers to 200 test questions, over the tokens of the answers; lower is better. A student "
        "of 4 layers and width 256, from scratch, learns from 320 questions and answers, each seen twice, in 160 "
        "steps, beside SmolLM2-135M-Instruct in 4-bit weights. So little text says which of the methods gets off the "
        "ground first, not where they end. `kd`, `gkd` and `distillm` replay the teacher's 64 likeliest tokens. All "
        "settings were fixed beforehand.",
        ("perplexity",),
        PERPLEXITY,
        _lines(f"data.name={DRAWN}", "gsm8k"),
    ),
    Table(
        "Language models: Python's documentation",
        "As above, on 441 passages of the documentation inside Python, each seen once, all of whose tokens count; a "
        "student that writes, or whose teacher does, begins with the first half of a passage.",
        ("perplexity",),
        PERPLEXITY,
        _lines("data.name=pydocs train.epochs=1", "pydocs"),
    ),
]


def draw() -> None:
    """Write the questions that are learnt and tested on."""
    DRAWN.mkdir(parents=True, exist_ok=True)
    for file, count in (("train.jsonl", LEARNT), ("test.jsonl", TESTED)):
        lines = (PUBLISHED / file).read_text(encoding="utf-8").splitlines()[:count]
        (DRAWN / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Run what is missing and write the tables."""
    args = papers.arguments(__doc__, 3)
    os.chdir(args.root)
    if args.run:
        draw()
    marked.write(BEGIN, END, "\n".join(tables.make(TABLES, args.run, args.seeds)))


if __name__ == "__main__":
    main()
