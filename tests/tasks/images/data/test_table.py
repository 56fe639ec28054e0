"""Labels in a table: which columns are read, which splits there are, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.running import call, distil, write_images
from tests.tasks.images.data.pictures import picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with thirty pictures and no structure."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(30):
        picture(number).save(tmp_path / "data" / "images" / f"{number:02}.png")
    return tmp_path / "data"


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def _open(file: Path, measuring: bool = False, **options: object) -> DataSet:
    cfg = Data(name=str(file), **{"val_fraction": 0.0, **options})  # type: ignore[arg-type]
    return open_data(cfg, measuring=measuring)


def _content(data: DataSet, part: str) -> dict[str, str]:
    """Return the class by the image's file."""
    split = getattr(data, part)
    names = [Path(split.images.paths[row]).name for row in split.rows]
    return {name: data.class_names[label] for name, label in zip(names, split.labels.tolist(), strict=True)}


@pytest.mark.parametrize(
    "header", [("image", "label"), ("filename", "class"), ("File_Name", "Category"), ("path", "target")]
)
def test_paths_are_relative_to_the_table(images: Path, header: tuple[str, str]) -> None:
    rows = [(f"images/{number:02}.png", ("cat", "dog")[number % 2]) for number in range(30)]
    data = _open(_write(images / "labels.csv", header, rows))
    assert data.class_names == ["cat", "dog"]
    assert not data.own_test
    found = {**_content(data, "train"), **_content(data, "test")}
    assert found == {f"{number:02}.png": ("cat", "dog")[number % 2] for number in range(30)}
    assert data.train.images[7].tobytes() == picture(7).tobytes()


def test_a_column_names_splits(images: Path) -> None:
    splits = ["Train"] * 20 + ["validation"] * 4 + ["TEST"] * 5 + ["spare"]
    rows = [(f"images/{n:02}.png", n % 3, split) for n, split in enumerate(splits)]
    data = _open(_write(images / "labels.csv", ("image", "label", "split"), rows), val_fraction=0.1)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (20, 4, 5)
    assert data.class_names == ["0", "1", "2"]
    assert any("spare" in remark for remark in data.remarks)
    assert "split test" in data.origins["test"]
    named = _open(images / "labels.csv", test_split="spare")
    assert list(_content(named, "test")) == ["29.png"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (range(11), [str(n) for n in range(11)]),
        (["other", "10", "9"], ["9", "10", "other"]),
        (["-2", "-10", "3"], ["-10", "-2", "3"]),
    ],
)
def test_numbers_are_in_the_order_of_numbers(images: Path, labels: Sequence[object], names: list[str]) -> None:
    rows = [(f"images/{n:02}.png", labels[n % len(labels)]) for n in range(30)]
    assert _open(_write(images / "l.csv", ("image", "label"), rows)).class_names == names


def test_rows_without_a_class_are_unlabelled(images: Path) -> None:
    rows = [(f"images/{n:02}.png", "" if n > 25 else "ab"[n % 2], "train" if n % 5 else "test") for n in range(30)]
    data = _open(_write(images / "labels.csv", ("image", "label", "split"), rows))
    assert (data.train.labels == -1).sum() == 4


def test_other_kinds_of_tables(images: Path) -> None:
    lines = [json.dumps({"image": f"images/{n:02}.png", "label": "ab"[n % 2]}) for n in range(30)]
    (images / "l.jsonl").write_text("\n".join(lines) + "\n")
    (images / "l.tsv").write_text("image\tlabel\n" + "".join(f"images/{n:02}.png\t{'ab'[n % 2]}\n" for n in range(30)))
    assert _content(_open(images / "l.jsonl"), "train") == _content(_open(images / "l.tsv"), "train")


def test_the_fingerprint_follows_labels(images: Path) -> None:
    rows = [(f"images/{n:02}.png", "ab"[n % 2]) for n in range(30)]
    before = _open(_write(images / "l.csv", ("image", "label"), rows)).fingerprint
    assert _open(images / "l.csv").fingerprint == before
    rows[3] = ("images/03.png", "a")
    assert _open(_write(images / "l.csv", ("image", "label"), rows)).fingerprint != before


# --- Hugging Face's imagefolder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("place", ["in each split", "one for all", "no splits"])
def test_metadata_of_an_imagefolder(images: Path, kind: str, place: str) -> None:
    folder = images.parent / "hub"
    split_of = {n: ("train" if n < 22 else "test") if place != "no splits" else "" for n in range(30)}
    for n, split in split_of.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / "images" / f"{n:02}.png", folder / split)
    tables: dict[Path, list[tuple[str, str]]] = {}
    for n, split in split_of.items():
        at = folder / split if place == "in each split" else folder
        name = f"{n:02}.png" if place != "one for all" else f"{split}/{n:02}.png"
        tables.setdefault(at, []).append((name, ("cat", "dog")[n % 2]))
    for at, rows in tables.items():
        if kind == "csv":
            _write(at / "metadata.csv", ("file_name", "label"), rows)
        else:
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
            (at / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    data = _open(folder)
    assert data.own_test == (place != "no splits")
    if data.own_test:
        assert (len(data.train), len(data.test)) == (22, 8)
    assert {**_content(data, "train"), **_content(data, "test")}["07.png"] == "dog"


def test_metadata_without_classes_leaves_the_folders(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", {"ant": 8, "bee": 8})
    _write(folder / "metadata.csv", ("file_name", "caption"), [("ant/0.jpg", "an ant")])
    assert _open(folder).class_names == ["ant", "bee"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (("photo", "label"), r"no column of images.*image, filename.*'photo'"),
        (("image", "kind"), "no column of classes"),
    ],
)
def test_columns_that_are_not_known(images: Path, header: tuple[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _open(_write(images / "l.csv", header, [("images/00.png", "a")]))


def test_images_that_are_not_there_are_named_all_at_once(images: Path) -> None:
    rows = [(f"images/{n:02}.png", "ab"[n % 2]) for n in range(33)]
    file = _write(images / "l.csv", ("image", "label"), rows)
    with pytest.raises(InputError, match=r"3 of 33 lines.*data\.max_bad.*30\.png.*31\.png.*32\.png"):
        _open(file)
    (remark,) = _open(file, max_bad=0.1).remarks
    assert "32.png" in remark
    few = _write(images / "few.csv", ("image", "label"), [*rows[:30], ("images/99.png", "a")])
    assert any("99.png" in remark for remark in _open(few).remarks)


def test_images_outside_of_the_folder_need_the_option(images: Path) -> None:
    outside = images.parent / "secret.png"
    picture(99).save(outside)
    rows = [*((f"images/{n:02}.png", "ab"[n % 2]) for n in range(30)), ("../secret.png", "a"), (str(outside), "b")]
    file = _write(images / "l.csv", ("image", "label"), rows)
    with pytest.raises(InputError, match=r"secret\.png lies outside.*data\.follow_links=true"):
        _open(file)
    data = _open(file, follow_links=True)
    assert len(data.train) + len(data.test) == 32


def test_several_labels_of_an_image_are_refused(images: Path) -> None:
    (images / "l.jsonl").write_text(json.dumps({"image": "images/00.png", "label": ["a", "b"]}) + "\n")
    with pytest.raises(InputError, match="one class"):
        _open(images / "l.jsonl")


def test_a_class_that_training_lacks_is_refused(images: Path) -> None:
    rows = [(f"images/{n:02}.png", "abc"[n % 2 if n else 2], "train" if n else "test") for n in range(30)]
    file = _write(images / "l.csv", ("image", "label", "split"), rows)
    with pytest.raises(InputError, match=r"'c' of .*00\.png does not occur in training"):
        _open(file)
    assert _open(file, measuring=True).class_names == ["a", "b", "c"]


def test_a_flat_folder_beside_its_table_names_it(images: Path) -> None:
    _write(images / "images" / "labels.csv", ("image", "label"), [("00.png", "a")])
    with pytest.raises(InputError, match=r"--data .*images/labels\.csv"):
        _open(images / "images")


def test_a_run_on_a_table_and_eval_on_another(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", {"ant": 24, "bee": 24})
    rows = [(path.relative_to(tmp_path), path.parent.name) for path in sorted(photos.rglob("*.*"))]
    file = _write(tmp_path / "labels.csv", ("image", "label"), rows)
    run = distil(tmp_path / "run", "--data", file, "--method", "none", "--image-size", "32")
    assert run.result["data"]["classes"] == 2
    few = _write(tmp_path / "few.csv", ("filename", "class"), rows[:10])
    found = json.loads(call("eval", run.folder, "--data", few, "--json").out)["data"]
    assert (found["split"], found["samples"]) == ("all", 10)


def test_several_classes_are_pointed_out_where_one_is_read(images: Path) -> None:
    rows = [(f"images/{n:02}.png", "ant|bee" if n % 2 else "ant") for n in range(30)]
    joined = _write(images / "joined.csv", ("image", "label"), rows)
    data = _open(joined)
    assert data.class_names == ["ant", "ant|bee"]
    assert any("'ant|bee' is taken for one class; data.targets=multi" in remark for remark in data.remarks)
    assert not any("taken for one class" in remark for remark in _open(joined, targets="multi").remarks)
    columns = _write(images / "columns.csv", ("image", "ant", "bee"), [("images/00.png", 1, 0)])
    with pytest.raises(InputError, match=r"data\.targets=multi reads a column of 0 and 1 for each class"):
        _open(columns)


@pytest.mark.parametrize(
    ("labels", "targets", "said"),
    [
        (("ant;bee", "ant"), "multi", "'ant;bee'"),
        (("['ant', 'bee']", "['ant']"), "multi", "\"['ant', 'bee']\""),
        (("ant;bee", "ant"), "single", "'ant;bee'"),
        (("ant bee", "ant", "bee"), "multi", "'ant bee'"),
        (("tench, Tinca tinca", "cock"), "single", None),
        (("red ant", "red bee"), "multi", None),
        (("ant|bee", "ant"), "multi", None),
    ],
)
def test_another_sign_between_classes_is_pointed_out(
    images: Path, labels: Sequence[str], targets: str, said: str | None
) -> None:
    rows = [(f"images/{n:02}.png", labels[n % len(labels)]) for n in range(30)]
    data = _open(_write(images / "l.csv", ("image", "label"), rows), targets=targets)
    found = [remark for remark in data.remarks if "taken for one class" in remark]
    assert len(found) == (said is not None)
    if said is not None:
        assert f"l.csv: {said} is taken" in found[0]
        assert "stands between them (a|b)" in found[0]


@pytest.mark.parametrize("targets", ["single", "multi"])
def test_empty_labels_are_named(images: Path, targets: str) -> None:
    rows = [(f"images/{n:02}.png", "", "test" if n > 27 else "train") for n in range(30)]
    file = _write(images / "l.csv", ("image", "Class", "split"), rows)
    with pytest.raises(InputError, match=r"l\.csv: the labels are empty: the column 'Class' .* any of the 28 training"):
        _open(file, targets=targets)
    alone = _write(images / "alone.csv", ("image", "split"), [("images/00.png", "train")])
    with pytest.raises(InputError, match=r"alone\.csv.* no column of classes"):
        _open(alone, targets=targets)


def test_images_in_the_table_itself_are_read_as_a_folder(images: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": (images / "images" / "00.png").read_bytes(), "path": "00.png"}] * 2
    parquet.write_table(pyarrow.table({"image": cells, "label": ["a", "b"]}), images / "inside.parquet")
    with pytest.raises(InputError, match=r"stands in the table itself; such \.parquet files are read as a folder"):
        _open(images / "inside.parquet")
