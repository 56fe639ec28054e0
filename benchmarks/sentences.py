"""Sentences: a BERT's students on 8,000 phrases of SST-2; runs what is missing and writes the tables of BENCHMARKS.md.

    python benchmarks/sst2_draw.py GLUE_FOLDER
    python benchmarks/sentences.py [--root .] [--run WORD] [--seeds 5]

``--root`` holds ``data/sst2``, as ``sst2_draw.py`` writes it, ``models/all-minilm-l6-v2`` and ``runs/``. Runs, their
notes and the check that a run is that of its command are those of ``papers.py``. A table takes the seeds that all of
its rows have, however many are run.
"""

from __future__ import annotations

import os

import marked  # beside this file
import papers
import tables
from papers import Row
from tables import ACCURACY, Line, Table

BEGIN, END = "<!-- sentences: made by benchmarks/sentences.py -->", "<!-- end of sentences -->"

AS = "train.seed={seed} teacher.check=off"
CACHED = f"{AS} cache.mode=build"
BILSTM = "sst2/bilstm_from_minilm_logits.yaml"
VIEWS = "data.mask=0.1 data.replace=0.1 data.ngram=0.25 data.views=8"
ERROR = "The test sentences' own standard error is about 1.3 points."
TINY = "sst2/transformer_2_from_minilm.yaml"


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
        "is chosen by the sentences that are measured: all settings were fixed beforehand, and the last epoch counts. "
        f"{ERROR}",
        ("2 epochs each", "1,052 steps each"),
        ACCURACY,
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
        "five epochs of 125 steps for every method. The methods' own papers start from a trained language model. "
        f"{ERROR}",
        ("accuracy",),
        ACCURACY,
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


def main() -> None:
    """Run what is missing and write the tables."""
    args = papers.arguments(__doc__, 5)
    os.chdir(args.root)
    marked.write(BEGIN, END, "\n".join(tables.make(TABLES, args.run, args.seeds)))


if __name__ == "__main__":
    main()
