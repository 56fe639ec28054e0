"""Text networks under ``inspect`` and ``bench``: they are spoken of as sentences and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdtool.tasks.text.models.build import Request, build
from kdtool.tasks.text.models.plain import BiLSTM
from kdtool.tasks.text.models.save import save_student
from kdtool.tasks.text.models.tokens import trained_on
from kdtool.tasks.text.specimens import WORDS
from tests.running import call
from tests.tasks.text.runs import pair, sentences


def test_inspect_counts_an_lstm_and_speaks_of_sentences(tmp_path: Path) -> None:
    said = call("inspect", *pair(sentences(tmp_path / "data.tsv")))
    assert said.code == 0, said.err
    assert "MACs at 12 tokens" in said.out
    assert "a step of 16 sentences" in said.out
    assert "image" not in said.out


def test_inspect_adds_up(tmp_path: Path) -> None:
    found = json.loads(call("inspect", *pair(sentences(tmp_path / "data.tsv")), "--method", "distilbert", "--json").out)
    _, student = found["networks"]
    both_directions = 2 * 12 * 4 * (300 + 150) * 150
    assert student["macs"] == both_directions + 300 * 400 + 400 * 3
    for network in found["networks"]:
        assert sum(row["params"] for row in network["stages"]) == network["params"]
    (step,) = found["steps"]
    assert step["macs"]["student"] == 16 * student["macs"]
    assert step["macs"]["backward"] >= 2 * step["macs"]["student"]


def test_two_tokenizers_are_looked_at_as_they_are_trained(tmp_path: Path) -> None:
    data, teacher, method = sentences(tmp_path / "data.tsv"), tmp_path / "teacher", ["--method", "tinybert"]
    tokens = trained_on(["rain", "snow and wind"], 60, 16)
    made = build(Request("transformer-tiny", "scratch", 3, tokens, {}, 0, "teacher"))
    save_student(teacher, made, made.module.state_dict(), sorted(WORDS))
    wanted = [*pair(data, student="transformer-tiny"), *method]
    two = [*pair(data, str(teacher), "transformer-tiny"), *method, "student.tokenizer=own"]
    said = [call("inspect", *each, "--json") for each in (wanted, two)]
    assert [each.code for each in said] == [0, 0], said[1].err
    alone, beside = (json.loads(each.out) for each in said)
    assert beside["problem"] is None
    assert beside["steps"][0]["macs"]["student"] == alone["steps"][0]["macs"]["student"]
    assert beside["steps"][0]["macs"]["teacher"] > 0
    assert beside["lengths"] == alone["lengths"] != []  # in the student's tokens, not in characters
    views = json.loads(call("inspect", *wanted, "data.mask=0.3", "--json").out)
    assert views["lengths"] == alone["lengths"]
    for command in ("--dry-run", "train.time_limit=1s"):
        run = call("run", *two, command, "teacher.check=off", "--epochs", "1", "--out", tmp_path / "run")
        assert run.code in (0, 2), run.err


def test_a_comparison_says_what_a_student_takes_from_its_teacher_alone(tmp_path: Path) -> None:
    teacher, tokens = tmp_path / "teacher", trained_on(["rain", "snow and wind"], 60, 16)
    made = build(Request("transformer-tiny", "scratch", 3, tokens, {}, 0, "teacher"))
    save_student(teacher, made, made.module.state_dict(), sorted(WORDS))
    wanted = [*pair(sentences(tmp_path / "data.tsv"), str(teacher)), "--methods", "none,kd", "--out", tmp_path / "all"]
    said = call("compare", *wanted)
    assert said.code == 2
    assert "another student to begin with" in said.err
    assert "student.tokenizer" in said.err
    common = ["teacher.check=off", "--epochs", "1", f"student.tokenizer={teacher}", "--seeds", "1"]
    done = call("compare", *wanted, *common)
    assert done.code == 0, done.err


def test_bench_measures_both_precisions_and_has_no_layout_to_choose(tmp_path: Path) -> None:
    said = call("bench", *pair(sentences(tmp_path / "data.tsv")), "--pairs", "2", "--steps", "1", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {row["precision"] for row in found["rows"]} == {"fp32", "bf16"}
    assert [row["feature"] for row in found["features"]] == [
        "plain fp32", "fused optimizer", "folded teacher", "bf16", "replayed teacher",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_lstm_runs_under_autocast_on_any_cpu(dtype: torch.dtype) -> None:
    network, ids = BiLSTM(20, 3, 8, 8, 8), torch.tensor([[1, 2, 3], [4, 5, 0]])
    with torch.autocast("cpu", dtype=dtype):
        logits = network(ids, ids > 0)
    logits.float().sum().backward()
    assert network.lstm.backwards.weight_ih_l0.grad is not None
    torch.testing.assert_close(logits.float(), network.eval()(ids, ids > 0), atol=0.1, rtol=0.1)
