"""Runs on sentences, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdtool.tasks.text.specimens import WORDS
from tests.running import Done, call
from tests.tasks.text.runs import distil, pair, sentences

NARROW = "student.model_args={embedding: 32, hidden: 16}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return sentences whose class their words tell; ninety lines without a label lie beside them in ``more.txt``."""
    folder = tmp_path_factory.mktemp("text")
    more = [" ".join(words[i % 7 :][:4]) + f" {i}" for i in range(30) for words in WORDS.values()]
    (folder / "more.txt").write_text("\n".join(more) + "\n", encoding="utf-8")
    return sentences(folder / "table.tsv", 300)


def test_a_bert_teaches_a_bilstm_in_the_tasks_own_words(table: Path, tmp_path: Path) -> None:
    more = ["--method", "logits", "--baseline", "--epochs", "6", "teacher.train.epochs=6", NARROW]
    done = distil(tmp_path / "run", table, *more)
    test = done.result["test"]
    assert test["teacher"]["top1"] > 0.8
    assert test["student"]["top1"] > 0.6
    assert (done.result["unit"], done.result["metric"]["label"]) == ("sentences", "accuracy")
    assert "training sentences" in done.out
    assert "image" not in done.out


@pytest.mark.parametrize(
    ("student", "more"),
    [
        ("bilstm", ["--method", "kd", "data.mask=0.1", "data.ngram=0.2", "data.replace=0.1", "data.drop=0.1", NARROW]),
        ("transformer-tiny", ["--method", "tinybert", "student.tokenizer=own"]),
    ],
    ids=["views", "tinybert"],
)
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bytes(
    table: Path, tmp_path: Path, student: str, more: list[str]
) -> None:
    kept = ["checkpoint.every_steps=3", "checkpoint.keep=99"]
    whole = distil(tmp_path / "run", table, *more, *kept, student=student)
    wanted = whole.file()
    (whole.folder / "result.json").unlink()
    shutil.rmtree(whole.folder / "student")
    every = sorted((whole.folder / "checkpoints").iterdir())
    for folder in every[len(every) // 2 :]:
        shutil.rmtree(folder)
    again = call("run", "--resume", whole.folder, folder=whole.folder)
    assert again.code == 0, again.err
    assert again.file() == wanted


@pytest.mark.parametrize("below", ["", "student"])
def test_a_run_teaches(text_run: Done, text_data: Path, tmp_path: Path, below: str) -> None:
    done = distil(tmp_path / "run", text_data, "--epochs", "1", teacher=str(text_run.folder / below))
    assert done.result["test"]["teacher"] == text_run.result["test"]["student"]


@pytest.mark.usefixtures("own_home")  # what others kept might be nearer
def test_unlabelled_lines_join_and_a_cache_replays_them(table: Path, tmp_path: Path) -> None:
    lines: list[Any] = ["--method", "logits", f"data.unlabelled={table.parent / 'more.txt'}", NARROW]
    lines += ["data.labels_per_class=20", "data.mask=0.2", "data.views=2", "cache.dtype=fp32"]
    built = distil(tmp_path / "built", table, *lines, "cache.mode=build")
    assert built.result["data"]["train"] == 60 + 90
    again = distil(tmp_path / "again", table, *lines, "cache.mode=require")
    assert built.file() == again.file()
    other = [*lines, "data.mask=0.3", "cache.mode=require", "teacher.check=off", "teacher.train.epochs=2"]
    other += ["teacher.train.batch_size=16", "--out", tmp_path / "no"]
    refused = call("run", *pair(table), *other)
    assert refused.code == 2
    assert "data.mask is 0.2, wanted 0.3" in refused.err


def test_two_tokenizers_teach_by_hidden_states(table: Path, tmp_path: Path) -> None:
    first = distil(tmp_path / "first", table, "--method", "none", student="transformer-tiny")
    other = ["--method", "fitnets", "student.tokenizer=own", "data.vocab_size=100"]
    teacher = str(first.folder / "student")
    done = distil(tmp_path / "run", table, *other, teacher=teacher, student="textcnn")
    assert done.result["teacher"]["vocab_size"] != done.result["student"]["vocab_size"]
    assert done.result["teacher"]["weights"] == "pretrained"


@pytest.mark.slow
def test_methods_are_compared_on_sentences(table: Path, tmp_path: Path) -> None:
    done = call("compare", *pair(table), "--methods", "none,logits", "--seeds", "1", "--epochs", "1", NARROW,
                "teacher.train.epochs=1", "teacher.check=off", "--out", tmp_path / "compared", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["metric"]["label"] == "accuracy"


@pytest.mark.parametrize(
    ("teacher", "arguments", "message"),
    [
        ("transformer-tiny", ["data.mask=0.7", "data.drop=0.7"], "together at most 1"),
        ("transformer-tiny", ["train.steps=5"], "train.epochs"),
        ("transformer-tiny", ["student.tokenizer=nowhere"], "nowhere"),
        ("transformer-tiny", ["--image-size", "32"], "image_size"),
        ("resnet50", [], "unknown model 'resnet50'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    table: Path, tmp_path: Path, teacher: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = call("run", *pair(table, teacher), "--out", tmp_path / "run", *arguments)
    assert done.code == 2, done.out
    assert message in done.err
    assert not (tmp_path / "run").exists()
