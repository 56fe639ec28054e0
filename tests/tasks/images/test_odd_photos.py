"""Photos as they are: phones' and scanners' files of every kind in one folder, from a run to the file that serves them.

A class is where a photo is bright once it is upright: at the top, or at one side. Stored pixels say the contrary for
those that were taken with the phone on its side.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.running import Done, call, distil

README = Path(__file__).parents[3] / "README.md"
SIZE = (64, 48)
TURNED = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""How a photo is stored, by the orientation that it is tagged with."""


def _photo(side: str, number: int) -> Image.Image:
    draw = np.random.Generator(np.random.Philox([number, side == "top"]))
    pixels = draw.integers(0, 90, (SIZE[1], SIZE[0], 3))
    pixels[..., int(draw.integers(3))] += 30
    bright = pixels[: SIZE[1] // 2] if side == "top" else pixels[:, : SIZE[0] // 2]
    bright += 120
    return Image.fromarray(pixels.astype(np.uint8))


def _on_its_side(photo: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.transpose(TURNED[orientation]).save(path, exif=exif)


def _write(folder: Path, count: int, first: int) -> None:
    """Write photos of both classes, each of the next kind."""
    for side in ("top", "side"):
        place = folder / side
        (place / "album" / "2020").mkdir(parents=True)
        for number in range(first, first + count):
            photo, name = _photo(side, number), place / str(number)
            match number % 8:
                case 0 | 1:
                    _on_its_side(photo, name.with_suffix(".JPG"), 6 if number % 16 < 8 else 8)
                case 2:
                    photo.convert("CMYK").save(name.with_suffix(".jpg"))
                case 3:
                    deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
                    Image.fromarray(deep).save(name.with_suffix(".png"))
                case 4:
                    photo.quantize(64).save(name.with_suffix(".png"))
                case 5:
                    photo.save(name.with_suffix(".avif" if features.check("avif") else ".webp"))
                case 6:
                    photo.save(place / "album" / "2020" / f"{number}.jpeg")
                case _:
                    photo.save(name.with_suffix(".tiff"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "photos"
    _write(folder / "Train", 48, 0)
    _write(folder / "TEST", 16, 500)
    top = folder / "Train" / "top"
    for name in ("0.JPG", "2.jpg"):
        (top / f"cut-{name}").write_bytes((top / name).read_bytes()[:700])
    (top / "notes.txt").write_text("the light was good")
    (top / "film.mp4").write_bytes(b"\0" * 64)
    (top / "IMG_1.HEIC").write_bytes(b"\0" * 64)
    (top / ".DS_Store").write_bytes(b"\0")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Done:
    data = ("data.labels_per_class=null", "data.max_bad=0.02", "data.val_fraction=0")
    how = ("--method", "none", "--epochs", "12", "--image-size", "32", "--student", "test_resnet", "--batch-size", "16")
    return distil(photos.parent / "run", "--data", photos, *how, *data)


def test_what_is_not_read_is_counted_and_said(run: Done) -> None:
    assert "1 .mp4" in run.out
    assert "1 .txt" in run.out
    if ".heic" in run.out:
        assert "kdtool[heic]" in run.out
    assert "2 images cannot be read" in run.out + run.err
    assert "cut-0.JPG" in run.out + run.err
    assert "cut-2.jpg" in run.out + run.err
    assert "classes in training: side 48, top 50" in run.out
    bad = [json.loads(line) for line in (run.folder / "bad-images.jsonl").read_text().splitlines()]
    assert {Path(line["why"].split()[1]).name for line in bad} == {"cut-0.JPG", "cut-2.jpg"}


def test_classes_are_learnt_of_upright_photos(run: Done, photos: Path) -> None:
    assert run.result["test"]["student"]["top1"] > 0.9
    said = call("predict", run.folder, photos / "TEST", "--json")
    found = json.loads(said.out)["predictions"]
    turned = [each for each in found if each["file"].endswith(".JPG")]
    assert len(turned) == 8
    assert {each["classes"][0]["class"] == Path(each["file"]).parent.name for each in turned} == {True}


def test_a_table_of_them_gives_the_same_numbers(run: Done, photos: Path) -> None:
    rows = [
        f"{path.relative_to(photos)},{path.relative_to(photos).parts[1]}" for path in (photos / "TEST").rglob("*.*")
    ]
    table = photos / "labels.csv"
    table.write_text("\n".join(["filename,class", *rows]) + "\n")
    inside, outside = (json.loads(call("eval", run.folder, *more, "--json").out) for more in ([], ["--data", table]))
    assert outside["data"]["samples"] == 32
    assert outside["metrics"] == inside["metrics"]


def test_the_exported_file_serves_a_photo_on_its_side(run: Done, photos: Path, tmp_path: Path) -> None:
    assert call("export", run.folder, "--to", "onnx").code == 0
    code = re.search(r"<!-- serve -->\n```python\n(.*?)```", README.read_text(), re.S)
    assert code is not None
    (tmp_path / "serve.py").write_text(code[1])
    for number, orientation, side in ((900, 6, "top"), (901, 8, "side")):
        photo = _photo(side, number)
        photo.save(tmp_path / "upright.png")
        _on_its_side(photo, tmp_path / "turned.png", orientation)
        said = [
            subprocess.run(
                [sys.executable, tmp_path / "serve.py", run.folder / "export" / "student.onnx", tmp_path / name],
                capture_output=True, text=True, check=True,
            ).stdout
            for name in ("upright.png", "turned.png")
        ]  # fmt: skip
        assert said[0] == said[1]
        assert said[0].split()[0] == side
