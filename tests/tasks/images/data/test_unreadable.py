"""Images that cannot be read: named, replaced by the next of their class, the same however they are loaded, counted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdtool.errors import InputError, RunError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.files import FileImages
from kdtool.tasks.images.data.loader import Loader, make_loader
from kdtool.tasks.images.data.open import open_data, thin
from kdtool.tasks.images.options import Data
from kdtool.tasks.task import Reading
from tests.tasks.images.data import damage
from tests.tasks.images.data.pictures import write_class_folders

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", damage.FORMATS)
def test_ten_kinds_of_damage_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(damage.encoded(kind))
    assert FileImages((str(path),))[0].size == (40, 30)
    for name, harm in damage.DAMAGE.items():
        path.write_bytes(harm(kind, damage.encoded(kind)))
        with pytest.raises(InputError, match=r"picture cannot be read"):
            pytest.fail(f"{kind}, {name}: {FileImages((str(path),))[0]}")


def test_ten_kinds_are_ten() -> None:
    assert len(damage.DAMAGE) == 10


@pytest.mark.parametrize("content", [damage.narrow(), damage.swollen_text(), damage.POSTSCRIPT, b"\xff\xd8\xff"])
def test_what_would_fill_the_memory_or_run_a_program_is_not_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    assert len(content) < 300_000
    with pytest.raises(InputError, match=r"x\.png cannot be read"):
        FileImages((str(tmp_path / "x.png"),))[0]


# --- replaced ---------------------------------------------------------------------------------------------------------

BROKEN = ("ant/0003.png", "ant/0004.png", "cow/0079.png", "cow/0078.png", "bee/0040.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ninety pictures, the last of a class and neighbours among the five that cannot be read."""
    folder = write_class_folders(tmp_path / "images", each=30)
    for name in BROKEN:
        (folder / name).write_bytes(b"no picture")
    return folder


def _open(folder: Path, **options: Any) -> DataSet:
    return open_data(Data(name=str(folder), max_bad=0.3, image_size=32, **options))


def _loader(data: DataSet, train: bool = True, **options: Any) -> Loader:
    cfg = Data(max_bad=0.3, **options)
    split = thin(data.train, cfg, data.class_names) if train else data.test
    return make_loader(data, split, cfg, 32, ((0.5,) * 3, (0.2,) * 3), Reading(16, 0, CPU, train))


def _inputs(loader: Loader) -> dict[int, torch.Tensor]:
    """Return each row's input in the first epoch."""
    return {
        int(loader.split.rows[at]): image
        for batch in loader.epoch(0)
        for at, image in zip(batch.index.tolist(), batch.inputs, strict=True)
    }


def _row(data: DataSet, name: str) -> int:
    images: Any = data.train.images
    return [path.endswith(name) for path in images.paths].index(True)


@pytest.mark.parametrize("crop", ["none", "resized"])
def test_the_next_of_the_class_stands_in_however_images_are_loaded(images: Path, crop: str) -> None:
    how: list[dict[str, Any]] = [{}, {"memory_budget_gb": 0.0}, {"memory_budget_gb": 0.0, "workers": 2}]
    found, listed = [], []
    for options in how:
        data = _open(images)
        found.append(_inputs(_loader(data, crop=crop, flip=0.0, **options)))
        listed.append(data.unreadable.found)
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(found[0][row], other[row]) for row in other)
    assert listed[0] == listed[1] == listed[2]
    assert listed[0]
    labels = dict(zip(data.train.rows.tolist(), data.train.labels.tolist(), strict=True))
    for (split, row), replaced in listed[0].items():
        if split != "training":
            continue
        same = sorted(r for r, label in labels.items() if label == labels[row])
        readable = [r for r in same if r not in {_row(data, name) for name in BROKEN}]
        assert replaced.by == next((r for r in readable if r > row), readable[0])
        if crop == "none":
            assert row not in found[0] or torch.equal(found[0][row], found[0].get(replaced.by, found[0][row]))


def test_a_thinned_training_set_gets_the_same_stand_ins(images: Path) -> None:
    data = _open(images)
    whole = _inputs(_loader(data, crop="none", flip=0.0))
    few = _inputs(_loader(_open(images), crop="none", flip=0.0, labels_per_class=16))
    assert few
    common = few.keys() & whole.keys()
    assert all(torch.equal(few[row], whole[row]) for row in common)


def test_an_image_of_another_split_never_stands_in(images: Path) -> None:
    data = _open(images)
    _inputs(_loader(data))
    _inputs(_loader(data, train=False))
    for (split, _), replaced in data.unreadable.found.items():
        rows = {"training": data.train, "test": data.test, "validation": data.val}[split].rows  # type: ignore[union-attr]
        assert replaced.by in rows


def test_parquet_is_replaced_alike(images: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    paths = sorted(images.rglob("*.png"))
    content = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [["ant", "bee", "cow"].index(path.parent.name) for path in paths]
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"image": pa.array(content, kind), "label": labels}), tmp_path / "parquet/train.parquet")
    files, rows = _open(images), _open(tmp_path / "parquet")
    one, other = (_inputs(_loader(data, crop="none")) for data in (files, rows))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[row], other[row]) for row in one)
    assert [(key, each.by) for key, each in files.unreadable.found.items()] == [
        (key, each.by) for key, each in rows.unreadable.found.items()
    ]


def test_unlabelled_images_stand_in_for_one_another(images: Path, tmp_path: Path) -> None:
    extra = write_class_folders(tmp_path / "extra", ("x",), each=4, first=900)
    (extra / "x" / "0901.png").write_bytes(b"")
    data = _open(images)
    own = len(data.train.images)
    _inputs(_loader(data, crop="none", unlabelled=str(extra)))
    assert data.unreadable.found["training", own + 1].by == own + 2


# --- counted and listed -----------------------------------------------------------------------------------------------


def test_too_many_end_the_run_and_all_are_listed(images: Path, tmp_path: Path) -> None:
    data = _open(images)
    data.unreadable.limit = 0.01
    data.unreadable.found.clear()
    data.unreadable.write_to(tmp_path / "bad.jsonl")
    with pytest.raises(RunError, match=r"2 of \d+ training images.*data\.max_bad=0\.01.*bad\.jsonl"):
        _inputs(_loader(data))
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all("cannot be read" in line["why"] and line["split"] == "training" for line in lines)
    data.unreadable.write_to(tmp_path / "bad.jsonl")  # a resumed run finds them again
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2


def test_too_many_before_a_run_are_named_all_at_once(images: Path) -> None:
    with pytest.raises(InputError) as refused:
        open_data(Data(name=str(images), max_bad=0.01, val_fraction=0.0, test_fraction=0.01))
    # One a class is tested on; whatever is trained on and cannot be read is named.
    data = _open(images, val_fraction=0.0, test_fraction=0.01)
    trained = [name for name in BROKEN if _row(data, name) in data.train.rows]
    assert len(trained) >= 3
    assert all(name in str(refused.value) for name in trained)
    assert f"{len(trained)} of {len(data.train)} training images" in str(refused.value)
    assert "data.max_bad" in str(refused.value)


def test_one_of_a_few_images_ends_no_run(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "few", ("ant", "bee"), each=12)
    (folder / "ant" / "0003.png").write_bytes(b"no picture")

    def inputs(max_bad: float) -> dict[tuple[str, int], Any]:
        data = open_data(Data(name=str(folder), val_fraction=0.0, test_fraction=0.5, max_bad=max_bad))
        for split in (data.train, data.test):
            norm, reading = ((0.5,) * 3, (0.2,) * 3), Reading(6, 0, CPU, False)
            assert len(_inputs(make_loader(data, split, Data(crop="none"), 32, norm, reading))) == 12
        return data.unreadable.found

    assert len(inputs(0.01)) == 1
    with pytest.raises(InputError, match=r"1 of 12 \w+ images cannot be read.*ant/0003\.png"):
        inputs(0.0)


def test_a_class_without_a_readable_image_ends_it(images: Path) -> None:
    for path in (images / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="No other image of its class"):
        _open(images)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root becomes another user here")
def test_a_folder_that_may_not_be_read(images: Path) -> None:
    from tests.running import start

    (images / "ant").chmod(0)
    for path in [images, *images.parents][:4]:
        path.chmod(path.stat().st_mode | 0o755)
    os.seteuid(65534)
    try:
        done = start(images.parent / "out", "--data", images, "--method", "none")
    finally:
        os.seteuid(0)
    assert done.code == 2
    assert "Permission denied" in done.err
    assert "Traceback" not in done.err
    assert not (images.parent / "out").exists()


# --- links ------------------------------------------------------------------------------------------------------------


def test_links_out_of_the_folder_are_followed_where_that_is_allowed(tmp_path: Path) -> None:
    outside = write_class_folders(tmp_path / "outside", ("x",), each=5, first=500)
    folder = write_class_folders(tmp_path / "data")
    (folder / "ant" / "link.png").symlink_to(outside / "x" / "0500.png")
    (folder / "bee" / "deep").symlink_to(outside / "x", target_is_directory=True)
    (folder / "cow" / "round").symlink_to(folder, target_is_directory=True)
    assert len(open_data(Data(name=str(folder))).train.images) == 30
    found = open_data(Data(name=str(folder), follow_links=True)).train.images
    names = [path.removeprefix(str(folder)) for path in found.paths]  # type: ignore[attr-defined]
    assert "/ant/link.png" in names
    assert "/bee/deep/0500.png" in names
    assert len(names) < 120
    (folder / "dog").symlink_to(outside / "x", target_is_directory=True)
    with pytest.raises(InputError, match=r"data\.follow_links=true"):
        open_data(Data(name=str(folder)))
    assert open_data(Data(name=str(folder), follow_links=True)).class_names[-1] == "dog"


def test_parquet_files_elsewhere_are_not_followed(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    content = [{"bytes": damage.encoded("PNG"), "path": None}] * 20
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(content, kind), "label": np.arange(20) % 2})
    pq.write_table(table, tmp_path / "secret.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(InputError, match=r"leads out.*data\.follow_links"):
        open_data(Data(name=str(tmp_path / "data")))
    assert len(open_data(Data(name=str(tmp_path / "data"), follow_links=True)).train) == 14
