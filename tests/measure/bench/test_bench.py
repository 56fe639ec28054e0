"""The bench, from outside, on small networks: what it measures and says, never how fast."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdtool.measure.bench.pairs import compare, median_interval
from tests.running import PAIR, call

ON_CPU = [*PAIR, "--batch-size", "16", "--device", "cpu"]


@pytest.mark.slow
def test_rows_of_every_stage_precision_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = os.environ.get("KDTOOL_HOME")
    done = call("bench", *ON_CPU, "--method", "fitnets", "--pairs", "2", "--steps", "1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rows = {(row["stage"], row["precision"], row["teacher"]) for row in found["rows"]}
    # The hint stage reads maps, which no cache holds.
    live = {(stage, precision, "live") for stage in ("hint", "distill") for precision in ("fp32", "bf16")}
    assert rows == live | {("distill", precision, "replayed") for precision in ("fp32", "bf16")}
    for row in found["rows"]:
        assert row["share_of_floor"] > 0
        assert row["samples_per_s"] > 0
        assert row["interval"][0] <= row["share_of_floor"] <= row["interval"][1]
    assert [row["feature"] for row in found["features"]] == [
        "plain fp32", "channels-last", "fused optimizer", "folded teacher", "bf16", "replayed teacher",
    ]  # fmt: skip
    assert all(part["limits"] in ("data", "teacher", "student") for part in found["parts"])
    # Nothing is left behind.
    assert not list(tmp_path.iterdir())
    assert os.environ.get("KDTOOL_HOME") == home


@pytest.mark.slow
def test_methods_beside_the_default_one() -> None:
    done = call("bench", *ON_CPU, "--methods", "rkd,dml,byot,nonsense", "--pairs", "2", "--steps", "1", "--json")
    assert done.code == 0, done.err
    rows = {row["method"]: row for row in json.loads(done.out)["methods"]}
    assert "problem" in rows.pop("nonsense")
    for row in rows.values():
        assert row["kept_for_backward_mb"] > 0
        assert row["samples_per_s"] > 0
    assert rows["dml"]["more_than_kd_mb"] > rows["rkd"]["more_than_kd_mb"]


def test_a_table_without_json() -> None:
    done = call("bench", *ON_CPU, "--pairs", "2", "--steps", "1", "--precision", "fp32")
    assert done.code == 0, done.err
    assert "share of floor" in done.out
    assert "limits" in done.out


@pytest.mark.parametrize("given", [["--precision", "fp7"], ["--method", "nope"], ["--pairs", "1"]])
def test_bad_input(given: list[str]) -> None:
    assert call("bench", *ON_CPU, *given).code == 2


def test_intervals_are_those_of_the_sign_test() -> None:
    assert median_interval([5, 1, 3]) == (3, 1, 5)
    assert median_interval(list(range(1, 7))) == (3.5, 1, 6)  # 1 - 2 / 64 = 0.969
    assert median_interval(list(range(1, 10))) == (5, 2, 8)  # 1 - 2 (1 + 9) / 512 = 0.961


def test_shares_are_of_pairs() -> None:
    found = compare(10, floor_s=[1.0, 2.0, 4.0], engine_s=[2.0, 2.0, 5.0])
    assert found["share_of_floor"] == 0.8
    assert found["samples_per_s"] == 5.0
    assert found["interval"] == [0.5, 1.0]
