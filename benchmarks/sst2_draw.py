"""The draw of SST-2 that the sentence benchmarks train on, from GLUE's ``train.tsv`` and ``dev.tsv``.

    python benchmarks/sst2_draw.py GLUE_FOLDER [--out data/sst2] [--seed 0]

Writes below ``--out``: ``few/train.tsv``, 8,000 phrases of the training file drawn by the seed, with their labels;
``rest.txt``, all its other phrases, a line each, without labels; ``all/train.tsv``, the whole training file; and in
both folders ``test.tsv``, GLUE's development set, the one with public labels, on which papers report. Nothing is
validated on: all settings are fixed beforehand and a run's last epoch is its result.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

COUNT = 8000
HEADER = "label\tsentence"


def rows_of(path: Path) -> list[str]:
    """Return a file's rows, "label<TAB>text" each, without its header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.rstrip() for line in lines[1:]]


def draw(glue: Path, out: Path, seed: int) -> None:
    """Write the files; the same ones for the same seed."""
    train, dev = rows_of(glue / "train.tsv"), rows_of(glue / "dev.tsv")
    drawn = np.random.Generator(np.random.Philox(seed)).permutation(len(train))[:COUNT]
    few = set(drawn.tolist())
    write(out / "few" / "train.tsv", [HEADER, *(train[row] for row in sorted(few))])
    write(out / "all" / "train.tsv", [HEADER, *train])
    write(out / "rest.txt", (text.split("\t", 1)[1] for row, text in enumerate(train) if row not in few))
    for folder in ("few", "all"):
        write(out / folder / "test.tsv", [HEADER, *dev])


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and write the draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="folder of train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, default=Path("data/sst2"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw(args.glue, args.out, args.seed)


if __name__ == "__main__":
    main()
