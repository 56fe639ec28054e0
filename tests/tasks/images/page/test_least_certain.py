"""The contact sheet of a run's page: which images it shows, in what colours, and how large it grows."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.evaluation.predictions import Examined
from kdtool.tasks.images.options import Data
from kdtool.tasks.images.page.thumbnail import SIDE
from kdtool.tasks.images.page.uncertain import MOST, least_certain
from tests.running import call, distil, write_images

NAMES = ["ant", "bee"]


def examined(folder: Path, channels: int = 3) -> Examined:
    cfg = Data(name=str(folder), channels=channels, max_bad=0.5)
    data = open_data(cfg)
    return Examined(data, cfg, {"test": data.test}, 8, torch.device("cpu"))


def photos(folder: Path, count: int) -> Path:
    for split in ("train", "test"):
        write_images(folder / split, dict.fromkeys(NAMES, count))
    return folder


def decoded(shown: dict[str, Any]) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(shown["picture"])))
    assert image.format == shown["format"].upper()
    return image


def logits(count: int) -> torch.Tensor:
    """Of sample i for the second class: the further from the middle, the surer."""
    second = torch.linspace(-3, 4, count)
    return torch.stack([torch.zeros(count), second], 1)


def test_the_least_certain_come_first_with_their_probability(tmp_path: Path) -> None:
    given = examined(photos(tmp_path / "p", 20))
    found = least_certain(given, logits(40), given.labels, NAMES)
    assert len(found) == MOST
    likeliest = logits(40).double().softmax(1).amax(1)
    assert [each["p"] for each in found] == pytest.approx(likeliest.sort().values[:MOST].tolist())
    order = likeliest.argsort()[:MOST].tolist()
    split = given.splits["test"]
    for each, i in zip(found, order, strict=True):
        assert each["label"] == NAMES[int(split.labels[i])]
        assert each["predicted"] == NAMES[int(logits(40)[i].argmax())]
        assert each["file"] == Path(split.images.paths[int(split.rows[i])]).name  # type: ignore[attr-defined]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pictures_are_small_and_as_the_network_sees_them(tmp_path: Path, channels: int, mode: str) -> None:
    given = examined(photos(tmp_path / "p", 3), channels)
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, (900, 1200, 4)).astype(np.uint8)
    target = next(path for path in sorted((tmp_path / "p" / "test" / "ant").iterdir()) if path.suffix == ".png")
    Image.fromarray(noise).save(target)
    shown = least_certain(given, logits(6), given.labels, NAMES)
    assert len(shown) == 6
    for each in shown:
        image = decoded(each)
        assert image.mode == mode
        assert max(image.size) <= SIDE
        assert len(each["picture"]) < 60_000


def test_a_truncated_file_is_left_out(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", 4)
    bad = folder / "test" / "bee" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    given = examined(folder)
    found = least_certain(given, logits(8), given.labels, NAMES)
    assert len(found) == 7
    assert ("bee", "0.jpg") not in {(each["label"], each["file"]) for each in found}


@pytest.mark.slow
def test_the_page_shows_what_eval_says(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    folder = photos(tmp_path / "p", 14)
    bad = folder / "test" / "bee" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    run = distil(tmp_path / "run", "--method", "none", "--data", folder, "--image-size", "32", "data.max_bad=0.5",
                 "data.labels_per_class=null", "train.batch_size=8", "data.channels=1").folder  # fmt: skip
    said = call("report", run, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    page = Path(document["page"]).read_text(encoding="utf-8")
    (card,) = re.findall(r"that the student is least certain of</h3>(.*?)</section>", page, re.DOTALL)
    assert card.count("<figure") == card.count("data:image/jpeg;base64,") == MOST
    assert len(card) < 250_000
    assert call("eval", run, "--predictions", tmp_path / "p.csv").code == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"] != str(bad)]
    least = sorted(float(row["confidence"]) for row in rows)[:MOST]
    shown = [float(each) for each in re.findall(r"</span> ([\d.]+) %", card)]
    assert shown == pytest.approx([100 * each for each in least], abs=0.051)
    wrong = sum(row["predicted"] != row["label"] for row in sorted(rows, key=lambda r: float(r["confidence"]))[:MOST])
    assert f"{wrong} of {MOST} are wrong" in card


@pytest.mark.slow
def test_several_classes_an_image_are_said_not_to_be_shown(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    write_images(tmp_path, {"all": 40})
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    lines = [f"all/{name},{'red|round' if n % 2 else 'round'}" for n, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    run = distil(tmp_path / "run", "--method", "none", "--data", tmp_path / "labels.csv", "--image-size", "32",
                 "data.targets=multi", "data.labels_per_class=null", "train.batch_size=8").folder  # fmt: skip
    said = call("report", run)
    assert said.code == 0, said.err
    page = next(run.glob("*.html")).read_text(encoding="utf-8")
    assert "An image has several classes" in page
    assert "least certain of" not in page
