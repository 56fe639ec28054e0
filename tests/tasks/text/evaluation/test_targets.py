"""What else can be measured: a user's own network, a folder of transformers that kdtool did not write, and pairs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import kdtool
from tests.running import Done, call
from tests.tasks.text.runs import CLASSES, distil, evaluated, pair

OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, vocab_size):
        super().__init__()
        self.words = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, ids, mask):
        return self.head((self.words(ids) * mask.unsqueeze(2)).sum(1))


def net(num_classes, vocab_size, pad_id):
    return Net(num_classes, vocab_size)
"""


def test_code_of_ones_own_runs_where_it_is_named_only(text_data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    named = f"{tmp_path / 'own.py'}:net"
    run = distil(tmp_path / "run", text_data, "--method", "none", student=named)
    student = run.folder / "student"
    for target in (run.folder, student):
        said = call("eval", target, "--task", "text", "--data", text_data)
        assert said.code == 2
        assert "own.py:net" in said.err
    weights = ["--task", "text", "--weights", student / "model.safetensors"]
    found = evaluated(named, *weights, "--data", text_data, "--split", "test")
    assert found["metrics"]["top1"] == run.result["test"]["student"]["top1"]
    (tmp_path / "new.txt").write_text("rain and wind\n")
    assert call("predict", named, tmp_path / "new.txt", *weights).code == 0


def test_a_folder_of_transformers_whose_classes_have_no_names(text_data: Path, tmp_path: Path) -> None:
    run = distil(tmp_path / "run", text_data, "--method", "none", student="transformer-tiny")
    foreign = tmp_path / "foreign"
    shutil.copytree(run.folder / "student", foreign)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}, "label2id": {f"LABEL_{i}": i for i in range(3)}}
    (foreign / "config.json").write_text(json.dumps(config))
    found = evaluated(foreign, "--task", "text", "--data", text_data, "--split", "test")
    assert found["metrics"]["top1"] == run.result["test"]["student"]["top1"]
    (tmp_path / "two.tsv").write_text("text\tlabel\n" + "".join(f"x {i}\t{'ab'[i % 2]}\n" for i in range(40)))
    said = call("eval", foreign, "--task", "text", "--data", tmp_path / "two.tsv")
    assert said.code == 2
    assert "3 classes without names" in said.err
    config["id2label"] = {"0": "weather", "1": "kitchen", "2": "harbour"}  # another order
    (foreign / "config.json").write_text(json.dumps(config))
    turned = evaluated(foreign, "--task", "text", "--data", text_data, "--split", "test")
    assert turned["confusion"]["classes"] == ["weather", "kitchen", "harbour"]
    assert [row["class"] for row in turned["per_class"]] == ["weather", "kitchen", "harbour"]
    (foreign / "config.json").write_text("{")
    said = call("eval", foreign, "--task", "text", "--data", text_data)
    assert said.code == 2
    assert "config.json cannot be read" in said.err


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("pairs")
    rows = "".join(f"rain {i}\twind {i % 3} a\t{'abc'[i % 3]}\n" for i in range(60))
    (place / "pairs.tsv").write_text(f"sentence1\tsentence2\tlabel\n{rows}")
    return distil(place / "run", place / "pairs.tsv", "--method", "none", teacher="textcnn")


def test_pairs(pairs: Done, tmp_path: Path) -> None:
    found = evaluated(pairs.folder, "--corrupt", "typos:5", "--predictions", tmp_path / "p.csv")
    assert found["metrics"]["top1"] == pairs.result["test"]["student"]["top1"]
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert all(row["text"].startswith("rain") and row["text2"].startswith("wind") for row in rows)
    table = call("predict", pairs.folder, pairs.folder.parent / "pairs.tsv", "--csv")
    assert len(table.out.splitlines()) == 61
    (tmp_path / "lines.txt").write_text("rain\twind\nalone\n")
    # The columns were found by their names, and the student knows that they are two: beside its run, and alone.
    alone = shutil.copytree(pairs.folder / "student", tmp_path / "alone")
    for target in (pairs.folder, alone):
        said = call("predict", target, tmp_path / "lines.txt", "--csv", "--task", "text")
        assert said.code == 0, said.err
        assert len(said.out.splitlines()) == 2
        assert "line 2: a pair of texts" in said.err
    (tmp_path / "single.csv").write_text("text\nrain wind\n")
    said = call("predict", pairs.folder, tmp_path / "single.csv")
    assert said.code == 2
    assert "single.csv would be read from 'text', and the network was trained on pairs" in said.err
    (tmp_path / "single.csv").write_text("text,label\n" + "".join(f"rain {i},{'abc'[i % 3]}\n" for i in range(30)))
    said = call("eval", pairs.folder, "--data", tmp_path / "single.csv")
    assert said.code == 2
    assert "was trained on pairs of texts" in said.err
    found = list(kdtool.predict(pairs.folder, samples=["rain wind", ("rain", "wind")]))
    assert [each.problem for each in found] == ["a pair of texts is wanted.", ""]
    assert call("report", pairs.folder).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("names", "says"), [(sorted(CLASSES)[::-1], "the same in another order"), (list("xyz"), "")])
def test_a_teacher_says_its_classes(
    names: list[str], says: str, text_run: Done, text_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(text_run.folder / "student", tmp_path / "teacher")
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == sorted(CLASSES)
    (folder / "config.json").write_text(json.dumps({**config, "label_names": names}))
    done = call("run", *pair(text_data, str(folder)), "--method", "logits", "--dry-run")
    assert done.code == (2 if says else 0), done.err
    assert (says or f"those of the data {', '.join(sorted(CLASSES))}: taken to be the same") in done.out + done.err
