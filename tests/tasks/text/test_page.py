"""``kdtool report`` on a run on sentences: they are shown as they are, and nothing speaks of pictures."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly")

from tests.running import Done, call
from tests.tasks.text.runs import CLASSES, evaluated


@pytest.fixture(scope="module")
def found(text_run: Done, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = call("report", text_run.folder, "-o", tmp_path_factory.mktemp("page") / "page.html", "--json")
    assert done.code == 0, done.err
    document: dict[str, Any] = json.loads(done.out)
    return document


def read(page: str) -> str:
    """Return a page without its styles and programs, which speak of pictures whatever it shows."""
    return re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_the_page_shows_sentences(found: dict[str, Any]) -> None:
    page = read(Path(found["page"]).read_text(encoding="utf-8"))
    (section,) = found["sections"]
    samples = section["samples"]["soft_labels"]
    assert len(samples) > 2
    for each in samples:
        assert each["text"].startswith("<b>x</b> ")
        assert html.escape(each["text"]) in page
        assert next(network["part"] for network in each["networks"]) == "teacher"
    assert "<b>x</b>" not in page
    assert "sentences" in page
    assert "image" not in page.lower()
    assert "--corrupt noise" not in page  # an image's; a text has typos
    for title in ("Reliability", "Confusion", "Classes", "Soft labels", "MCC", *CLASSES):
        assert title in page


def test_its_numbers_are_those_of_eval_and_both_networks_are_drawn(found: dict[str, Any], text_run: Done) -> None:
    (section,) = found["sections"]
    assert section["evaluation"] == evaluated(text_run.folder)
    assert section["baseline"] == evaluated(text_run.folder / "baseline" / "student")
    planes = section["samples"]["embeddings"]
    assert sorted(planes) == ["student", "teacher"]
    count = section["samples"]["count"]
    assert all(len(plane["x"]) == len(plane["label"]) == count for plane in planes.values())
