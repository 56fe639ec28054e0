"""From a run to files: eval finds its numbers again, exports agree with it, serve alone, and are refused when wrong."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.running import Done, call, distil
from tests.sampling import every

README = Path(__file__).parents[4] / "README.md"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return distil(tmp_path_factory.mktemp("ship") / "run", "--student", "test_resnet", "--image-size", "32")


@pytest.fixture(scope="module")
def exported(done: Done) -> dict[str, object]:
    said = call("export", done.folder, "--to", "program,onnx,onnx-int8", "--tolerance", "100", "--json")
    assert said.code == 0, said.err
    found: dict[str, object] = json.loads(said.out)
    return found


def test_eval_finds_the_numbers_of_the_result_again(done: Done, tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    said = call("eval", done.folder, "--json", "--corrupt", "noise", "--predictions", file)
    found = json.loads(said.out)
    assert found["metrics"] == done.result["test"]["student"]
    assert found["teachers"][0]["metrics"] == done.result["test"]["teacher"]
    assert found["target"]["params"] == done.result["student"]["params"]
    assert found["robustness"][0]["corruption"] == "noise"
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file).to_pydict()
    right = sum(table["correct"]) / len(table["correct"])
    assert right == pytest.approx(found["metrics"]["top1"])


def test_a_bias_moves_every_answer(done: Done) -> None:
    found = json.loads(call("eval", done.folder / "student", "--bias", "3=1000", "--json").out)
    assert sum(row[3] for row in found["confusion"]["counts"]) == found["data"]["images"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bias", "cat=1"], "no such class"),
        (["--split", "nope"], "Valid: test, val, train, all"),
        (["--corrupt", "fog"], "--corrupt fog"),
        (["--weights", "w.pth"], "comes with its own weights"),
        (["--predictions", "p.json"], "Valid endings: .csv, .parquet"),
        (["train.epochs=3"], "only those of data"),
    ],
)
def test_what_is_wrong_is_said(done: Done, arguments: list[str], says: str) -> None:
    said = call("eval", done.folder, *arguments)
    assert said.code == 2
    assert says in said.err


def test_exports_agree_and_are_measured_like_their_student(done: Done, exported: dict[str, object]) -> None:
    exports: dict[str, dict[str, object]] = exported["exports"]  # type: ignore[assignment]
    assert exports["onnx"]["relative_difference"] <= 1e-5  # type: ignore[operator]
    assert exports["program"]["relative_difference"] <= 1e-5  # type: ignore[operator]
    assert exports["onnx-int8"]["tried"]
    for form in ("onnx", "program"):
        found = json.loads(call("eval", exports[form]["file"], "--json").out)
        assert found["metrics"]["top1"] == exports[form]["top1"]
        assert found["target"]["params"] == done.result["student"]["params"]


def test_no_export_says_where_it_was_made(done: Done, exported: dict[str, object]) -> None:
    import onnx

    for path in (done.folder / "export").glob("student*.onnx"):
        model = onnx.load(str(path))
        assert not re.search(rb"\.py\b", model.SerializeToString())
    with zipfile.ZipFile(done.folder / "export" / "student.pt2") as archive:
        assert not [n for n in archive.namelist() if b"site-packages" in archive.read(n)]


@pytest.mark.parametrize("crop_pct", every(2, [0.8, 1.0]))
def test_the_readme_serves_an_export_without_torch(done: Done, tmp_path: Path, crop_pct: float) -> None:
    import timm
    import torch
    from PIL import Image

    from kdtool.tasks.images.data.decode import decode, with_channels

    code = re.search(r"<!-- serve -->\n```python\n(.*?)```", README.read_text(), re.S)
    assert code is not None
    assert len(code[1].strip().splitlines()) <= 22
    (tmp_path / "serve.py").write_text("import sys; sys.modules['torch'] = None\n" + code[1])
    place = tmp_path / "student"
    shutil.copytree(done.folder / "student", place)
    config = json.loads((place / "config.json").read_text())
    config["pretrained_cfg"]["crop_pct"] = crop_pct
    (place / "config.json").write_text(json.dumps(config))
    assert call("export", place, "--to", "onnx", "--data", "digits").code == 0
    student = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(student), is_training=False)
    for mode, size in (("RGB", (50, 77)), ("L", (90, 41)), ("RGBA", (33, 33)), ("P", (20, 31)), ("I;16", (44, 30))):
        picture = tmp_path / f"{mode.replace(';', '')}.png"
        noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, (*size, 4)).astype(np.uint8)
        deep = noise.view(np.uint16)[..., 0]
        (Image.fromarray(deep) if mode == "I;16" else Image.fromarray(noise, "RGBA").convert(mode)).save(picture)
        arguments = [sys.executable, tmp_path / "serve.py", place / "export" / "student.onnx", picture]
        said = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=True).stdout
        with torch.no_grad():
            expected = student(transform(with_channels(decode(str(picture)), 3))[None])[0]
        assert json.loads(said.partition(" ")[2]) == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.slow
def test_an_export_that_loses_too_much_is_not_kept(
    done: Done, exported: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdtool.tasks.common.export import checks

    monkeypatch.setattr(checks, "EXACT", 0.0)
    said = call("export", done.folder, "--to", "onnx", "--out", done.folder / "refused")
    assert said.code == 3
    assert "differs by" in said.err
    assert [path.name for path in (done.folder / "refused").iterdir()] == ["export.json"]


def test_a_program_with_a_pickle_in_it_is_refused(exported: dict[str, object], done: Done, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(done.folder / "export" / "student.pt2") as good, zipfile.ZipFile(bad, "w") as made:
        for name in good.namelist():
            content = good.read(name)
            made.writestr(name, pickle.dumps(Trap()) if "sample_inputs" in name else content)
    said = call("eval", bad, "--data", "digits")
    assert said.code == 2
    assert not (tmp_path / "ran").exists()


def test_profile_lists_teacher_student_and_exports(done: Done, exported: dict[str, object]) -> None:
    said = call("profile", done.folder, "--batch-sizes", "1,2", "--seconds", "0.01", "--json")
    rows = json.loads(said.out)["rows"]
    assert [row["part"] for row in rows] == ["teacher", "student", "export", "export", "export"]
    assert all(row["params"] and row["macs"] for row in rows)
    assert all([speed["batch_size"] for speed in row["speed"]] == [1, 2] for row in rows)
    for row in rows:
        assert row["memory"]["bytes"]["1"] > 0, row["name"]
    assert rows[1]["memory"]["bytes"]["2"] == 2 * rows[1]["memory"]["bytes"]["1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "points", "more"),
    [
        ("resnet18", 1, ["--epochs", "3"]),
        # Patches of 16 pixels would leave four tokens of an image of 32.
        ("vit_tiny", 1, ["--epochs", "4", "student.model_args.patch_size=8"]),
        ("mobilenetv3", 2, ["--epochs", "4"]),
        ("efficientnet_lite0", 2, ["--epochs", "4"]),
    ],
)
def test_four_families_ship(student: str, points: int, more: list[str], tmp_path: Path) -> None:
    run = distil(tmp_path / "run", "--student", student, "--image-size", "32", *more, "data.labels_per_class=null")
    said = call("export", run.folder, "--to", "onnx,onnx-int8", "--tolerance", points)
    found = json.loads((run.folder / "export" / "export.json").read_text())
    fp32, int8 = (found["exports"][form] for form in ("onnx", "onnx-int8"))
    assert fp32["relative_difference"] <= 1e-5
    # Within its points it ships; where it is not, it is refused with its number.
    assert int8["accepted"] == (int8["lost_points"] <= points)
    assert (run.folder / "export" / "student-int8.onnx").exists() == int8["accepted"]
    assert said.code == (0 if int8["accepted"] else 3)
    assert int8["accepted"] or f"{int8['lost_points']:.2f} points" in said.err
    assert int8["accepted"] or student != "resnet18"  # the others learn too little in so few epochs to be held to it
