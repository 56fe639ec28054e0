"""Runs on sentences, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdtool.tasks.text.specimens import WORDS
from tests.running import Done, call

TINY = ["--task", "text", "--device", "cpu", "--batch-size", "16", "data.vocab_size=150", "data.max_length=16"]
TINY += ["teacher.train.epochs=6", "teacher.train.batch_size=16", "student.model_args={embedding: 32, hidden: 16}"]
PAIR = ["--teacher", "transformer-tiny", "--student", "bilstm"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of sentences whose class their words tell, and lines without a label beside it."""
    folder, draw = tmp_path_factory.mktemp("text"), np.random.Generator(np.random.Philox(3))
    lines = ["sentence\tlabel"]
    for row in range(300):
        name = list(WORDS)[row % 3]
        lines.append(f"{' '.join(draw.choice(WORDS[name], int(draw.integers(4, 9))))} {row}\t{name}")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    more = [" ".join(draw.choice(WORDS[name], 6)) for name in WORDS for _ in range(30)]
    (folder / "more.txt").write_text("\n".join(more) + "\n", encoding="utf-8")
    return folder


def distil(data: Path, out: Path, *arguments: object) -> Done:
    given = [*TINY, *([] if "--teacher" in arguments else PAIR), "--data", data / "table.tsv"]
    done = call(
        "run", *given, *([] if "--epochs" in arguments else ["--epochs", "2"]), "--out", out, *arguments, folder=out
    )
    assert done.code == 0, done.err
    return done


def test_a_bert_teaches_a_bilstm_in_the_tasks_own_words(sentences: Path, tmp_path: Path) -> None:
    done = distil(sentences, tmp_path / "run", "--method", "logits", "--baseline", "--epochs", "8", "--lr", "0.01")
    test = done.result["test"]
    assert test["teacher"]["top1"] > 0.8
    assert test["student"]["top1"] > 0.6
    assert (done.result["unit"], done.result["metric"]["label"]) == ("sentences", "accuracy")
    assert "training sentences" in done.out
    assert "image" not in done.out


@pytest.mark.parametrize(
    "more",
    [
        ["--method", "kd", "data.mask=0.1", "data.ngram=0.2", "data.replace=0.1", "data.drop=0.1"],
        ["--method", "tinybert", "--student", "transformer-tiny", "student.model_args={}", "student.tokenizer=own"],
    ],
    ids=["views", "tinybert"],
)
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bytes(
    sentences: Path, tmp_path: Path, more: list[str]
) -> None:
    whole = distil(sentences, tmp_path / "run", *more, "checkpoint.every_steps=3", "checkpoint.keep=99")
    wanted = whole.file()
    (whole.folder / "result.json").unlink()
    shutil.rmtree(whole.folder / "student")
    every = sorted((whole.folder / "checkpoints").iterdir())
    for folder in every[len(every) // 2 :]:
        shutil.rmtree(folder)
    again = call("run", "--resume", whole.folder, folder=whole.folder)
    assert again.code == 0, again.err
    assert again.file() == wanted


def test_unlabelled_lines_join_and_a_cache_replays_them(sentences: Path, tmp_path: Path) -> None:
    lines = ["--method", "logits", "--data", sentences / "table.tsv", f"data.unlabelled={sentences / 'more.txt'}"]
    lines += ["data.labels_per_class=20", "data.mask=0.2", "data.views=2"]
    live = distil(sentences, tmp_path / "live", *lines)
    assert live.result["data"]["train"] == 60 + 90
    built = distil(sentences, tmp_path / "built", *lines, "cache.mode=build", "cache.dtype=fp32")
    again = distil(sentences, tmp_path / "again", *lines, "cache.mode=require", "cache.dtype=fp32")
    assert built.file() == again.file()
    refused = call(
        "run", *TINY, *PAIR, *lines, "data.mask=0.3", "cache.mode=require", "cache.dtype=fp32", "--out", tmp_path / "no"
    )
    assert refused.code == 2
    assert "data.mask is 0.2, wanted 0.3" in refused.err


def test_two_tokenizers_teach_by_hidden_states(sentences: Path, tmp_path: Path) -> None:
    first = distil(
        sentences, tmp_path / "first", "--method", "none", "--student", "transformer-tiny", "student.model_args={}"
    )
    teacher = ["--teacher", first.folder / "student", "--student", "textcnn", "student.model_args={}"]
    done = distil(
        sentences, tmp_path / "run", *teacher, "--method", "fitnets", "student.tokenizer=own", "data.vocab_size=100"
    )
    assert done.result["teacher"]["vocab_size"] != done.result["student"]["vocab_size"]
    assert done.result["teacher"]["weights"] == "pretrained"


def test_methods_are_compared_on_sentences(sentences: Path, tmp_path: Path) -> None:
    done = call("compare", *TINY, *PAIR, "--data", sentences / "table.tsv", "--methods", "none,logits", "--seeds", "1",
                "--epochs", "1", "--out", tmp_path / "compared", "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["metric"]["label"] == "accuracy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.mask=0.7", "data.drop=0.7"], "together at most 1"),
        (["train.steps=5"], "train.epochs"),
        (["student.tokenizer=nowhere"], "nowhere"),
        (["--image-size", "32"], "image_size"),
        (["--teacher", "resnet50"], "unknown model 'resnet50'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sentences: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [*TINY, *([] if "--teacher" in arguments else PAIR), "--data", sentences / "table.tsv"]
    done = call("run", *given, "--out", tmp_path / "run", *arguments)
    assert done.code == 2, done.out
    assert message in done.err
    assert not (tmp_path / "run").exists()
