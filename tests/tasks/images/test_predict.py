"""``kdtool predict`` on pictures: files and folders, and what is no picture."""

from __future__ import annotations

import io
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


def test_they_are_sorted_where_that_is_asked_for(run: Done) -> None:
    photos = run.folder.parent / "photos"
    found = {}
    for order in ("confidence", "class"):
        done = call("predict", run.folder, photos, "--top", 2, "--sort", order, "--json")
        predictions = json.loads(done.out)["predictions"]
        assert len(predictions) == 40
        found[order] = [(each["classes"][0]["class"], each["classes"][0]["probability"]) for each in predictions]
    assert found["confidence"] == sorted(found["confidence"], key=lambda each: each[1])
    assert found["class"] == sorted(found["class"], key=lambda each: (each[0], -each[1]))
    assert call("predict", run.folder, photos, "--sort", "name").code == 2


def test_standard_input_is_one_picture(run: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = run.folder.parent / "photos" / "bee" / "3.png"

    def said(contents: bytes, *words: str) -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(contents)))
        return call("predict", run.folder, *words, "--json")

    alone, piped = (json.loads(said(picture.read_bytes(), str(name)).out)["predictions"] for name in (picture, "-"))
    assert piped[0]["classes"] == alone[0]["classes"]
    assert piped[0]["file"] == "-"
    nothing = said(b"", "-")
    assert nothing.code == 2
    assert "cannot be read as an image" in nothing.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-", "-"], "standard input is one image"),
        (["no-such.png"], "no file or folder"),
        (["tests/cli"], "holds no images"),
        (["tests", "data.crop=none"], "no key of the recipe"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Done, arguments: list[str], says: str) -> None:
    done = call("predict", run.folder, *arguments)
    assert done.code == 2
    assert says in done.err
