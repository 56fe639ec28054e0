"""``kdtool eval`` finds again what runs of every shape found, and tells classes by their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.comparison.small import compare
from tests.running import call, distil, write_images

STUDENT = ("--student", "test_resnet", "--image-size", "32", "teacher.check=warn")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--assistant", "test_vit"), marks=pytest.mark.slow),
        pytest.param(("--generations", "2"), marks=pytest.mark.slow),
        ("--teacher", "test_resnet", "--teacher", "test_vit"),
        pytest.param(("--precision", "bf16"), marks=pytest.mark.slow),
    ],
)
def test_chains_several_teachers_and_half_precision(more: tuple[str, ...], tmp_path: Path) -> None:
    run = distil(tmp_path / "run", *more, *STUDENT)
    found = json.loads(call("eval", run.folder, "--json").out)
    assert found["metrics"] == run.result["test"]["student"]
    expected = run.result["test"]["teacher"]
    assert [each["metrics"] for each in found["teachers"]] == (expected if isinstance(expected, list) else [expected])


@pytest.mark.slow
def test_the_runs_of_a_comparison(tmp_path: Path) -> None:
    assert compare(tmp_path / "out", "--methods", "none,kd", "--seeds", "1").code == 0
    results = list((tmp_path / "out").rglob("result.json"))
    assert len(results) == 2
    for result in results:
        found = json.loads(call("eval", result.parent, "--json").out)
        assert found["metrics"] == json.loads(result.read_text())["test"]["student"]


def test_classes_are_told_by_name_where_their_numbers_differ(tmp_path: Path) -> None:
    import pyarrow.parquet

    own = write_images(tmp_path / "own", {"ant": 20, "bee": 20, "cat": 20})
    run = distil(tmp_path / "run", "--data", own, *STUDENT)
    assert json.loads(call("eval", run.folder, "--json").out)["metrics"] == run.result["test"]["student"]
    others = write_images(tmp_path / "others", {"cat": 8, "bee": 8}, seed=1)
    table = tmp_path / "p.parquet"
    said = call("eval", run.folder, "--data", others, "--split", "all", "--predictions", table, "--json",
                "--teacher", run.folder, "--bias", "cat=1000")  # fmt: skip
    found, rows = json.loads(said.out), pyarrow.parquet.read_table(table).to_pylist()
    assert found["teachers"][0]["classes"] == 3
    assert {row["class"] for row in rows} == {"bee", "cat"}
    assert all(Path(row["file"]).parent.name == row["class"] for row in rows)
    assert all(row["predicted_class"] == "cat" and row["correct"] == (row["class"] == "cat") for row in rows)
    assert [row["support"] for row in found["per_class"]] == [0, 8, 8]
    stranger = write_images(tmp_path / "stranger", {"bee": 4, "dog": 4}, seed=2)
    said = call("eval", run.folder, "--data", stranger)
    assert said.code == 2
    assert "'dog'" in said.err


def test_all_is_measured_of_what_is_named_and_has_no_test_split(tmp_path: Path) -> None:
    own = write_images(tmp_path / "own", {"ant": 20, "bee": 20, "cat": 20})
    run = distil(tmp_path / "run", "--data", own, "--method", "none", *STUDENT)
    write_images(tmp_path / "photos" / "val", {"ant": 9, "bee": 6}, seed=1)  # no cat
    write_images(tmp_path / "photos" / "train", {"ant": 12, "bee": 13}, seed=2)

    def measured(data: Path, *more: str) -> tuple[str, int]:
        done = call("eval", run.folder, "--data", data, "--json", *more)
        assert done.code == 0, done.err
        found = json.loads(done.out)["data"]
        return found["split"], found["samples"]

    assert measured(tmp_path / "photos" / "val") == ("all", 15)
    assert measured(tmp_path / "photos" / "val", "--split", "test") == ("test", 3)
    assert measured(tmp_path / "photos") == ("test", 15)
    (tmp_path / "photos" / "train").rename(tmp_path / "elsewhere")
    (tmp_path / "photos" / "val").rename(tmp_path / "photos" / "Test")
    assert measured(tmp_path / "photos") == ("test", 15)
    (tmp_path / "photos" / "Test" / "bee").rename(tmp_path / "bee")
    assert measured(tmp_path / "photos") == ("test", 9)
    assert (
        json.loads(call("eval", run.folder, "--json").out)["data"]["samples"] == 12
    )  # the run's own: what it held out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval", "runs/nope"], "no folder 'runs/nope'"),
        (["eval", "resnet1888"], "Did you mean 'resnet18'"),
        (["eval", "test_resnet"], "--data"),
        (["eval", "test_resnet", "--data", "digits", "--bias", "3=nan"], "finite"),
        (["eval", "test_resnet", "--data", "digits", "--bias", "²=1"], "no such class"),
        (["profile", "test_resnet", "--batch-sizes", "²"], "whole numbers"),
        (["profile", "test_resnet", "--seconds", "inf"], "finite time above 0"),
    ],
)
def test_what_a_hurried_user_types(arguments: list[str], says: str) -> None:
    said = call(*arguments)
    assert said.code == 2
    assert says in said.err
