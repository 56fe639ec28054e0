"""Several classes an image: from a table to what ships, and what does not go with it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from kdtool.tasks.common.multilabel import MultiLabel, per_class
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from kdtool.terminal.words import percent
from tests.running import SMALL, TEACHER, Done, call, distil, start

COLOURS = ("blue", "green", "red")
SIDE = 16


def _picture(number: int, classes: list[str]) -> Image.Image:
    """Return a picture with a bright square of each class's colour, somewhere."""
    draw = np.random.Generator(np.random.Philox([number, 5]))
    pixels = draw.integers(0, 40, (SIDE, SIDE, 3))
    for name in classes:
        y, x = draw.integers(0, SIDE - 6, 2)
        pixels[y : y + 6, x : x + 6, 2 - COLOURS.index(name)] += 200
    return Image.fromarray(pixels.astype(np.uint8))


def _classes(number: int) -> list[str]:
    return [name for k, name in enumerate(COLOURS) if number % 8 >> k & 1]


def write_squares(folder: Path, count: int, *, columns: bool) -> Path:
    """Write pictures and a table of them: in a column ``a|b``, or in one of 0 and 1 for each class."""
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        classes = _classes(number)
        _picture(number, classes).save(folder / "images" / f"{number}.png")
        split = "test" if number >= count * 2 // 3 else "train"
        row: dict[str, Any] = {"image": f"images/{number}.png", "split": split}
        rows.append(row | ({n: int(n in classes) for n in COLOURS[::-1]} if columns else {"label": "|".join(classes)}))
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


SEVERAL = ["data.targets=multi", "--student", "test_resnet", "--epochs", "6", "--lr", "0.005", "--batch-size", "16",
           "data.image_size=16", "data.labels_per_class=null", "teacher.train.epochs=6", "data.val_fraction=0.1",
           "teacher.train.optim.lr=0.005", "teacher.train.batch_size=16"]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), 240, columns=False)


@pytest.fixture(scope="module")
def done(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("several") / "run"
    return distil(folder, "--method", "mld+at", "--data", table, *SEVERAL, "cache.mode=build", "data.views=1")


# --- end to end -------------------------------------------------------------------------------------------------------


def test_each_class_is_learnt_on_its_own(done: Done) -> None:
    result = done.result
    assert result["metric"]["key"] == "map"
    assert result["test"]["teacher"]["map"] > 0.8
    assert result["test"]["student"]["map"] > 0.7
    assert 0 < result["test"]["student"]["exact"] <= 1
    assert "mAP" in done.out
    assert "outputs replayed" in done.out


@pytest.mark.slow
def test_eval_tells_of_each_class(done: Done, table: Path) -> None:
    found = json.loads(call("eval", done.folder, "--json").out)
    assert found["metrics"] == {k: v for k, v in done.result["test"]["student"].items() if k in found["metrics"]}
    assert [row["class"] for row in found["per_class"]] == list(COLOURS)
    assert [row["support"] for row in found["per_class"]] == [40, 40, 40]
    assert np.mean([row["ap"] for row in found["per_class"]]) == pytest.approx(found["metrics"]["map"])
    assert found["teachers"][0]["metrics"]["map"] == done.result["test"]["teacher"]["map"]
    shown = call("eval", done.folder / "student", "--data", table, "data.targets=multi")
    assert shown.code == 0, shown.err
    assert "average precision" in shown.out


@pytest.mark.slow
def test_eval_with_damage_shifts_and_a_file(done: Done, table: Path, tmp_path: Path) -> None:
    plain = json.loads(call("eval", done.folder, "--json").out)
    asked = ("--corrupt", "noise:5", "--bias", "red=100", "--predictions", tmp_path / "out.csv")
    said = call("eval", done.folder, *asked, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    # A shift moves a class's threshold: its order, and so its average precision, stays.
    assert found["bias"] == {"red": 100}
    assert found["metrics"]["map"] == pytest.approx(plain["metrics"]["map"])
    assert found["per_class"][2]["f1"] == pytest.approx(2 / 3)  # it is told of each, and half have it
    assert found["per_class"][:2] == plain["per_class"][:2]
    (worse,) = found["robustness"]
    assert worse["drop_points"] == pytest.approx(100 * (found["metrics"]["map"] - worse["map"]), abs=1e-4)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    for row in rows:
        classes, guessed, p = (json.loads(row[key]) for key in ("classes", "predicted_classes", "probabilities"))
        assert classes == _classes(int(row["row"])) == _classes(int(Path(row["file"]).stem))
        assert guessed == [name for name, each in zip(COLOURS, p, strict=True) if each >= 0.5]
        assert "red" in guessed
        assert row["correct"] == str(guessed == classes)
        assert p == pytest.approx([1 / (1 + np.exp(-each)) for each in json.loads(row["logits"])])
    shown = call("eval", done.folder, "--corrupt", "noise:5", "--bias", "red=100", "--data", table,
                 "data.targets=multi").out  # fmt: skip
    assert "loses" in shown
    assert "red +100" in shown
    wrong = call("eval", done.folder, "--bias", "pink=1")
    assert wrong.code == 2
    assert "no such class" in wrong.err


@pytest.mark.slow
def test_the_page_tells_of_each_class(done: Done) -> None:
    pytest.importorskip("plotly")
    from tests.report.test_report import page_of, table_of

    assert call("eval", done.folder, "--corrupt", "jpeg:5").code == 0
    said = call("report", done.folder, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    (section,) = found["sections"]
    page, evaluation = page_of(found), json.loads(call("eval", done.folder, "--json").out)
    assert section["evaluation"] == evaluation
    taught = {row["class"]: row["ap"] for row in evaluation["teachers"][0]["per_class"]}
    assert table_of(page, "Classes") == [
        [row["class"], str(row["support"]), percent(taught[row["class"]]), percent(row["ap"])]
        for row in evaluation["per_class"]
    ]
    measured = {"teacher": evaluation["teachers"][0], "student": evaluation}
    networks = {row[0]: row[2] for row in table_of(page, "Networks")}
    assert networks == {part: percent(each["metrics"]["map"]) for part, each in measured.items()}
    assert "jpeg:5" in page


@pytest.mark.slow
def test_a_killed_run_goes_on_to_equal_bytes(done: Done, table: Path, tmp_path: Path) -> None:
    how = ("--method", "mld+at", "--data", table, *SEVERAL, "data.mixup=0.2", "--epochs", "2", "teacher.train.epochs=1")
    whole = distil(tmp_path / "whole", *how)
    killed = tmp_path / "killed"
    command = [sys.executable, "-u", "-m", "kdtool", "run", *SMALL, "--teacher", TEACHER, *how, "--out", killed]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(killed.glob("checkpoints/*")):
            time.sleep(0.02)
        process.kill()
    assert not (killed / "result.json").exists()
    resumed = call("run", "--resume", killed, folder=killed)
    assert resumed.code == 0, resumed.err
    assert resumed.file() == whole.file()
    assert resumed.result["test"] == whole.result["test"]


@pytest.mark.slow
def test_a_comparison_is_of_mean_average_precision(table: Path, tmp_path: Path) -> None:
    how = ("--data", table, *SEVERAL, "--teacher", TEACHER, "--epochs", "1", "--seeds", "2", "teacher.train.epochs=1")
    said = call("compare", "--methods", "none,mld", *how, "--out", tmp_path / "both")
    assert said.code == 0, said.err
    assert "mAP" in said.out
    found = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert found["metric"]["key"] == "map"
    for row in found["rows"]:
        values = [
            json.loads((Path(run["folder"]) / "result.json").read_text())["test"]["student"]["map"]
            for run in found["runs"] if run["method"] == row["method"]
        ]  # fmt: skip
        assert row["best"]["mean"] == pytest.approx(np.mean(values))


@pytest.mark.slow
def test_what_ships_tells_all_classes(done: Done, table: Path) -> None:
    assert call("export", done.folder, "--to", "onnx,program").code == 0
    file = done.folder / "export" / "student.onnx"
    exported = json.loads(call("eval", file, "--data", table, "data.targets=multi", "--json").out)
    assert exported["metrics"]["map"] == pytest.approx(done.result["test"]["student"]["map"])
    pictures = [table.parent / "images" / f"{number}.png" for number in range(160, 176)]
    given = [json.loads(call("predict", target, *pictures, "--json").out) for target in (done.folder, file)]
    names = [[each["class"] for each in found["classes"]] for found in given[0]["predictions"]]
    assert names == [[each["class"] for each in found["classes"]] for found in given[1]["predictions"]]
    right = [sorted(some) == _classes(number) for number, some in zip(range(160, 176), names, strict=True)]
    assert np.mean(right) > 0.5
    assert all(each["probability"] > 0.5 for found in given[0]["predictions"] for each in found["classes"])
    # An image in which nothing is seen has its line, too.
    lines = list(csv.DictReader(call("predict", done.folder, *pictures, "--csv").out.splitlines()))
    told = {str(picture): [row["class"] for row in lines if row["file"] == str(picture)] for picture in pictures}
    assert list(told.values()) == [some or [""] for some in names]
    assert [""] in told.values()
    everything = json.loads(call("predict", file, pictures[0], "--top", "3", "--json").out)["predictions"][0]["classes"]
    assert {each["class"] for each in everything} == set(COLOURS)
    refused = call("export", done.folder, "--to", "onnx-int8")
    assert refused.code == 2
    assert "tells several classes" in refused.err
    assert call("profile", done.folder, "--batch-sizes", "1", "--seconds", "0.01").code == 0


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [False, True])
def test_both_kinds_of_tables_say_the_same(columns: bool, tmp_path: Path) -> None:
    data = open_data(Data(name=str(write_squares(tmp_path, 48, columns=columns)), targets="multi"))
    assert data.class_names == list(COLOURS)  # whatever the order of the columns
    assert data.sets is not None
    for split in (data.train, data.test):
        for label, row in zip(split.labels, split.rows, strict=True):
            names = [name for name, there in zip(COLOURS, data.sets[label], strict=True) if there]
            assert names == _classes(int(row))


def test_a_share_is_held_out_where_each_image_has_a_set_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(60):
        _picture(number, []).save(tmp_path / "images" / f"{number}.png")
        classes = [f"bit{k}" for k in range(6) if number >> k & 1]
        lines.append({"image": f"images/{number}.png", "label": classes})
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = open_data(Data(name=str(tmp_path / "labels.jsonl"), targets="multi", val_fraction=0.25))
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [36, 12, 12]


def test_the_data_report_counts_images_not_classes(table: Path, tmp_path: Path) -> None:
    done = start(tmp_path / "run", "--method", "none", "--data", table, *SEVERAL, "--dry-run")
    counts = {
        row[1]: row[2:5] for line in done.out.splitlines() if len(row := [e.strip() for e in line.split("│")]) > 4
    }
    assert counts["all"] == ["144", "16", "80"]
    assert counts["red"][2] == "40"


def test_lists_and_unknown_labels(tmp_path: Path) -> None:
    write_squares(tmp_path, 8, columns=False)
    labels = [["red", "blue"], [], "-1", "red", "red", []]
    lines = [{"image": f"images/{n}.png", "label": label} for n, label in enumerate(labels)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = open_data(Data(name=str(tmp_path / "labels.jsonl"), targets="multi", val_fraction=0.0, test_fraction=0.3))
    assert data.sets is not None
    assert data.class_names == ["blue", "red"]
    found = {int(row): label for row, label in zip(data.train.rows, data.train.labels, strict=True)}
    found |= {int(row): label for row, label in zip(data.test.rows, data.test.labels, strict=True)}
    assert found[2] == -1
    assert data.sets[found[0]].tolist() == [1, 1]
    assert data.sets[found[1]].tolist() == [0, 0]


# --- loss and metrics -------------------------------------------------------------------------------------------------


def test_the_hard_loss_is_that_of_each_class(tmp_path: Path) -> None:
    sets = np.array([[0, 0, 1], [1, 1, 0]], dtype=np.float32)
    logits = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    task = MultiLabel(sets, 0.2)
    expected = 0.0
    for b, label in ((0, 1), (2, 0)):
        for k in range(3):
            p, wanted = 1 / (1 + np.exp(-float(logits[b, k]))), 0.8 * sets[label, k] + 0.1
            expected -= (wanted * np.log(p) + (1 - wanted) * np.log(1 - p)) / 2
    assert float(task.hard_loss(logits, torch.tensor([1, -1, 0]))) == pytest.approx(expected, rel=1e-6)
    mixed = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert float(task.hard_loss(logits, mixed)) == pytest.approx(expected, rel=1e-6)
    assert float(task.hard_loss(logits, torch.tensor([-1, -1, -1]))) == 0.0


def test_the_metrics_are_scikit_learns() -> None:
    draw = torch.Generator().manual_seed(1)
    sets = np.array([[a, b, c, 0] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=np.float32)
    labels, logits = torch.randint(0, 8, (40,), generator=draw), torch.randn(40, 4, generator=draw)
    meters = [MultiLabel(sets).meter() for _ in range(2)]
    for meter, part in zip(meters, (slice(0, 25), slice(25, 40)), strict=True):
        meter.add(logits[part], labels[part], torch.arange(40)[part])
    meters[0].merge([meter.state() for meter in meters])
    found, wanted = meters[0].metrics(), sets[labels.numpy()][:, :3].astype(int)
    scores, guessed = logits.numpy()[:, :3], (logits.numpy()[:, :3] >= 0).astype(int)
    assert found["map"] == pytest.approx(average_precision_score(wanted, scores, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(wanted, guessed, average="macro"))
    rows = per_class(logits, torch.from_numpy(sets)[labels], ["a", "b", "c", "d"])
    assert rows[3] == {"class": "d", "support": 0, "ap": None, "f1": None}


# --- what does not go with it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["at+kd", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dkd", "crd"))])
def test_methods_of_one_class_are_refused_by_name(method: str, table: Path, tmp_path: Path) -> None:
    done = start(tmp_path / "run", "--method", method, "--data", table, *SEVERAL, "--dry-run")
    assert done.code == 2
    assert f"method {method.rpartition('+')[2]!r} takes one class a sample" in done.err
    assert "mld" in done.err


@pytest.mark.parametrize(
    "method",
    [["fitnets", "fitnets.mode=joint"], *(pytest.param([n], marks=pytest.mark.slow) for n in ("rkd", "simkd", "none"))],
)
def test_methods_on_features_run_as_they_are(method: list[str], table: Path, tmp_path: Path) -> None:
    done = start(tmp_path / "run", "--method", *method, "--data", table, *SEVERAL, "--dry-run")
    assert done.code == 0, done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "targets", "says"),
    [
        (["red", "green", "blue"], "multi", "the same in another order"),
        (["blue", "green", "red"], None, "tells one class of a sample, and the data have several: teacher.new_head"),
        (["blau", "grün", "rot"], "multi", ""),
    ],
)
def test_a_teacher_of_other_classes(
    names: list[str], targets: str | None, says: str, done: Done, table: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(done.folder / "student", tmp_path / "teacher")
    config = json.loads((folder / "config.json").read_text())
    assert config["targets"] == "multi"
    changed = {**config, "label_names": names, "targets": targets}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in changed.items() if value}))
    how = ("--method", "mld", "--data", table, *SEVERAL, "--teacher", f"local-dir:{folder}", "--dry-run")
    found = start(tmp_path / "run", *how)
    assert found.code == (2 if says else 0), found.err
    assert says in found.err
    if says:
        assert start(tmp_path / "run", *how, "teacher.new_head=true").code == 0
    else:
        assert "are called blau, grün, rot, those of the data blue, green, red: taken to be the same" in found.out


@pytest.mark.slow
def test_a_teacher_of_several_classes_teaches_no_single_one(done: Done, table: Path, tmp_path: Path) -> None:
    lines = [row for row in csv.DictReader(table.open()) if row["label"] in COLOURS]
    with (table.parent / "single.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("image", "label", "split"))
        writer.writeheader()
        writer.writerows(lines)
    how = ("--method", "kd", "--data", table.parent / "single.csv", "--image-size", "16", "data.labels_per_class=null")
    refused = start(tmp_path / "run", *how, "--teacher", done.folder, "--dry-run")
    assert refused.code == 2
    assert "tells several classes of a sample, and the data have one" in refused.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["data.labels_per_class=3"], "data.labels_per_class does not go with data.targets=multi"),
        (["--data", "digits"], "takes a table"),
        (["data.labels=false"], "data.labels=false does not go"),
        (["--class-weights"], "not possible for samples with several classes"),
    ],
)
def test_what_is_wrong_is_said(given: list[str], says: str, table: Path, tmp_path: Path) -> None:
    done = start(tmp_path / "run", "--method", "none", "--data", table, *SEVERAL, "--dry-run", *given)
    assert done.code == 2
    assert says in done.err
