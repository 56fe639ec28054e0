"""Distilling step-by-step: the loss against a loop, and a run on data that tell kinds apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from kdtool import Batch, Out, Setup
from kdtool_methods.step_by_step import StepByStep
from tests.running import call

pytest.importorskip("transformers")


def test_each_task_is_the_mean_over_its_own_rows() -> None:
    torch.manual_seed(0)
    rows, classes, weight = 12, 5, 0.7
    kinds = {"label": torch.tensor([1.0, 0, 2, 0] * 3), "rationale": torch.tensor([0, 1.0, 0, 0] * 3)}
    method = StepByStep(StepByStep.Config(weight=weight), Setup({}, [], classes, rows, 4, kinds=kinds)).double()
    for index in ([3, 1, 0, 2, 7, 5], [0, 2, 3], [1, 5, 9, 9]):  # both, labels alone, rationales alone
        logits = torch.randn(len(index), classes, dtype=torch.float64, requires_grad=True)
        labels = torch.randint(0, classes, (len(index),))
        labels[-1] = -1
        terms = method.loss(Batch(labels, torch.tensor(index), Out(logits), [], lambda x: x.sum()))
        sum(terms.values()).backward()  # type: ignore[union-attr]
        values: list[list[float]] = logits.tolist()
        total, gradients = 0.0, [[0.0] * classes for _ in index]
        # Rows 3 and 7 are of no kind, and learnt as labels.
        for factor, own in ((1.0, {0: 1.0, 2: 2.0, 3: 1.0, 7: 1.0}), (weight, {1: 1.0, 5: 1.0, 9: 1.0})):
            count = sum(own.get(row, 0.0) for row, label in zip(index, labels.tolist(), strict=True) if label >= 0)
            for i, (row, label) in enumerate(zip(index, labels.tolist(), strict=True)):
                if label < 0 or row not in own:
                    continue
                exps = [math.exp(each) for each in values[i]]
                total += factor * own[row] / count * -math.log(exps[label] / sum(exps))
                for k in range(classes):
                    gradients[i][k] += factor * own[row] / count * (exps[k] / sum(exps) - (k == label))
        assert sum(float(term) for term in terms.values()) == pytest.approx(total, abs=1e-9)
        assert torch.allclose(logits.grad, torch.tensor(gradients, dtype=torch.float64), rtol=0, atol=1e-9)  # type: ignore[arg-type]


def test_a_run_tells_labels_and_rationales_apart(tmp_path: Path) -> None:
    rows = []
    for i in range(30):
        for kind, text in (("label", "good"), ("rationale", "because it is kind and warm " * 3)):
            turns = [{"role": "user", "content": f"[{kind}] film {i}"}, {"role": "assistant", "content": text}]
            rows.append({"kind": kind, "weight": 1.0, "messages": turns})
    (tmp_path / "taught").mkdir()
    (tmp_path / "taught/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("run", "--task", "language", "--method", "step_by_step", "--data", tmp_path / "taught", "--epochs", 1,
                "--student", "llama-tiny", "--batch-size", 8, "--out", tmp_path / "run", "--device", "cpu",
                "data.max_length=64")  # fmt: skip
    assert done.code == 0, done.err
    assert "labels alone" not in done.out
    (record,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    train = record["train"]
    assert 0 < train["label"] < 12
    assert 0 < train["rationale"] < 12
    assert train["total"] == pytest.approx(train["label"] + train["rationale"], rel=1e-6)
