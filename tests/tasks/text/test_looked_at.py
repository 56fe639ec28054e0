"""Text networks under ``inspect`` and ``bench``: they are spoken of as sentences and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdtool.tasks.text.models.plain import BiLSTM
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
