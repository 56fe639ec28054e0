"""The recipe's keys that text brings. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from kdtool.recipe import schema
from kdtool.recipe.options import OUTPUTS, STUDENT, TEACHER, option
from kdtool.recipe.schema import EVERYTHING

MODEL = (
    "bilstm, textcnn, transformer-tiny, transformer-mini; an encoder of transformers by hub name or local folder; or "
    "path/to/file.py:function"
)

SERVING = "serving.json"
"""What a program that serves an exported file reads beside it: class names, the padding's number, the longest text."""

FINE_TUNE_LR = 5e-5
"""The largest of those that Devlin et al., 2019, appendix A.3, name for BERT; at ten times that it may forget all."""


@dataclass
class Teacher(schema.Teacher):
    # Sentences that a BERT from scratch can learn from in minutes are few, and their steps with them: after 8 epochs
    # of the built-in ones it knows less than a BiLSTM does.
    scratch_epochs = 20
    fine_tune_lr = FINE_TUNE_LR

    model: str = option("transformer-tiny", MODEL)


@dataclass
class Student(schema.Student):
    fine_tune_lr = FINE_TUNE_LR

    model: str = option("bilstm", MODEL)
    tokenizer: str = option(
        "auto",
        "auto: the model's, else the first teacher's, else own; own: a WordPiece trained on the data; or a folder",
    )


@dataclass
class Data(schema.Data):
    name: str = option(
        "pydocs", "pydocs, a .tsv, .csv, .jsonl or .parquet file, a folder of them, or hf/NAME[:CONFIGURATION]"
    )
    text: list[str] = option(
        [], "columns that hold the text, one or a pair; none: found by their names", decides=(TEACHER, STUDENT)
    )
    label: Optional[str] = option(
        None, "column that holds the class; none: found by its name", decides=(TEACHER, STUDENT)
    )
    unlabelled: Optional[str] = option(
        None, "file of lines, or a table, whose texts join distillation without a hard label"
    )
    max_bad: float = option(
        0.01,
        "share of a split's lines that may be unreadable; they are left out and listed in bad-lines.jsonl",
        min=0.0,
        max=1.0,
        decides=(TEACHER, STUDENT),
    )
    max_length: int = option(128, "tokens of a text at most, those of its end left out", min=4, decides=EVERYTHING)
    vocab_size: int = option(8000, "entries of a WordPiece that is trained on the data", min=100, decides=EVERYTHING)
    mask: float = option(
        0.0, "share of words that a training view hides behind the mask token", min=0.0, max=1.0,
        decides=(OUTPUTS, STUDENT),
    )  # fmt: skip
    drop: float = option(
        0.0, "share of words that a training view leaves out", min=0.0, max=1.0, decides=(OUTPUTS, STUDENT)
    )
    replace: float = option(
        0.0, "share of words that a training view replaces by words of the training set, drawn by their frequency",
        min=0.0, max=1.0, decides=(OUTPUTS, STUDENT),
    )  # fmt: skip
    strong: float = option(
        0.3, "share of a text's words that are changed in its strong view, for methods that see one beside the usual",
        min=0.0, max=1.0, decides=(OUTPUTS, STUDENT), late=True,
    )  # fmt: skip
    ngram: float = option(
        0.0, "chance that a training view keeps only an n-gram of the text, n from 1 to 5", min=0.0, max=1.0,
        decides=(OUTPUTS, STUDENT),
    )  # fmt: skip
