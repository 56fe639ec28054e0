"""``kdtool predict`` on pictures: files and folders, and what is no picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import kdtool
from tests.running import Done, call, distil, write_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("predict")
    data = write_images(place / "photos", {"ant": 20, "bee": 20})
    more = ["--data", data, "--image-size", "32", "--student", "test_resnet", "teacher.check=off"]
    return distil(place / "run", *more, "--method", "none", "data.labels_per_class=null")


def test_it_says_what_eval_says_of_the_same_images(run: Done, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert call("eval", run.folder, "--split", "all", "--predictions", tmp_path / "p.parquet").code == 0
    rows = {row["file"]: row for row in parquet.read_table(tmp_path / "p.parquet").to_pylist()}
    done = call("predict", run.folder, run.folder.parent / "photos", "--json", "--batch-size", 7)
    found = json.loads(done.out)["predictions"]
    assert sorted(each["file"] for each in found) == sorted(rows)
    for each in found:
        row = rows[each["file"]]
        assert each["classes"][0]["class"] == row["predicted_class"]
        assert each["classes"][0]["probability"] == pytest.approx(row["confidence"], abs=1e-4)
    one = found[0]["file"]
    (alone,) = kdtool.predict(run.folder, samples=[Image.open(one)], device="cpu")
    assert alone.guesses[0][0] == found[0]["classes"][0]["class"]


def test_what_is_no_picture_is_told_and_counted(run: Done, tmp_path: Path) -> None:
    good, bad = run.folder.parent / "photos" / "ant" / "1.png", tmp_path / "no.png"
    bad.write_bytes(b"nothing")
    done = call("predict", run.folder, good, bad, "--top", 2)
    assert done.code == 0
    assert "1.png" in done.out
    assert f"left out: {bad}" in done.err
    assert "1 of 2 inputs" in done.err
    done = call("predict", run.folder, bad, "--csv")
    assert (done.code, done.out) == (2, "")
    assert "none of the 1 images" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-"], "standard input is no image"),
        (["no-such.png"], "no file or folder"),
        (["tests/cli"], "holds no images"),
        (["tests", "data.crop=none"], "no key of the recipe"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Done, arguments: list[str], says: str) -> None:
    done = call("predict", run.folder, *arguments)
    assert done.code == 2
    assert says in done.err
