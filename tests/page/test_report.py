"""``kdtool report``: a page that opens offline, in Chromium, and shows what ``kdtool eval`` says."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly")

from kdtool.page import charts
from kdtool.page.html import Page
from kdtool.page.of_comparison import add_comparison
from kdtool.report import words
from tests.running import call, distil, write_images

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by two stages with a baseline, on classes with names that are markup."""
    place = tmp_path_factory.mktemp("report")
    data = write_images(place / "photos", {HOSTILE: 24, "a & b": 24, "%{x}": 24})
    more = ["--method", "fitnets", "--baseline", "--epochs", "2", "--data", data, "--image-size", "32"]
    return distil(place / "run", *more, "teacher.check=off", "data.labels_per_class=null").folder


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    done = call("report", run, "--json")
    assert done.code == 0, done.err
    document: dict[str, Any] = json.loads(done.out)
    assert document["page"] == str(run / "report.html")
    return document


def page_of(found: dict[str, Any]) -> str:
    return Path(found["page"]).read_text(encoding="utf-8")


def test_its_numbers_are_those_of_eval(run: Path, found: dict[str, Any]) -> None:
    (section,) = found["sections"]
    evaluated = json.loads(call("eval", run, "--json").out)
    alone = json.loads(call("eval", run / "baseline" / "student", "--json").out)
    assert section["evaluation"] == evaluated
    assert section["baseline"] == alone
    shown = page_of(found)
    for each in (evaluated, alone, *evaluated["teachers"]):
        for key in ("top1", "macro_recall", "macro_f1"):
            assert f">{words.percent(each['metrics'][key])}<" in shown
        assert f">{words.percent(each['calibration']['ece'])}<" in shown
        assert all(f">{words.percent(row['recall'])}<" in shown for row in each["per_class"])
    result = json.loads((run / "result.json").read_text())
    assert evaluated["metrics"] == result["test"]["student"]
    assert alone["metrics"] == result["test"]["baseline"]


def test_the_figures_hold_the_log(run: Path, found: dict[str, Any]) -> None:
    figures = json.loads(re.search(r'<script id="figures" type="application/json">(.*?)</script>', page_of(found))[1])  # type: ignore[index]
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = figures["figure-1"]
    drawn = {trace["name"]: trace["y"] for trace in loss["data"]}
    assert set(drawn) == {name for record in log for name in record["train"]}
    assert drawn["total"] == [record["train"]["total"] for record in log]
    assert [note["text"] for note in loss["layout"]["annotations"]] == ["hint", "distill"]


def test_names_are_shown_letter_by_letter(found: dict[str, Any]) -> None:
    shown = page_of(found)
    before_scripts = shown.split('<script id="figures"')[0]
    assert html.escape(HOSTILE) in before_scripts
    assert HOSTILE not in shown
    assert "a &amp; b" in before_scripts
    assert not re.findall(r'(?:src|href)="(?!data:)', before_scripts)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [400, 1400])
def test_it_opens_in_chromium(found: dict[str, Any], width: int, tmp_path: Path) -> None:
    dom, said = opened(Path(found["page"]), width, tmp_path)
    assert "CONSOLE" not in said, said
    body = dom.split('<script id="figures"')[0]
    for text in ("Loss terms", "Reliability", "Soft labels", "Embedding of the student", "baseline", "teacher, T = 1"):
        assert text in body
    assert body.count("main-svg") >= body.count('class="plot')  # every figure is drawn


def opened(page: Path, width: int, profile: Path) -> tuple[str, str]:
    """Return the document as Chromium has it after its scripts ran, and what it logged."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *(f"--user-data-dir={profile}", f"--window-size={width},1000", "--virtual-time-budget=10000"),
            *("--dump-dom", page.resolve().as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, done.stderr


def test_a_comparison_is_ranked() -> None:
    def row(method: str, mean: float, difference: dict[str, float] | None) -> dict[str, Any]:
        figures = {"mean": mean, "sd": 0.01, "difference": difference}
        return {"student": "small", "method": method, "seeds": 3, "best": figures, "last": figures,
                "cost": {"seconds": 12.0}}  # fmt: skip

    rows = [row("none", 0.9, None), row("one", 0.93, {"pairs": 3, "mean": 0.03, "low": 0.01, "high": 0.05}),
            row("<two>", 0.89, {"pairs": 3, "mean": -0.01, "low": -0.04, "high": 0.02})]  # fmt: skip
    whole = {"methods": ["none", "one", "<two>"], "students": ["small"], "seeds": [0, 1, 2], "reference": "none",
             "rows": rows, "says": ["one gains 3 points."]}  # fmt: skip
    page = Page("x")
    profile = {"small": {"speed": [{"median_ms": 4.5}]}}
    add_comparison(page, {"folder": "study", "comparison": whole, "profile": profile})
    shown = page.write()
    ranked = page.figures["figure-1"]["data"][0]
    assert (ranked["y"], ranked["x"]) == (["&lt;two&gt;", "one"], pytest.approx([-1.0, 3.0]))
    assert ranked["error_x"]["array"] == pytest.approx([3.0, 2.0])
    at = {trace["name"]: (trace["x"], trace["y"]) for trace in page.figures["figure-2"]["data"]}
    assert at["one"] == ([4.5], [pytest.approx(93.0)])
    assert "one gains 3 points." in shown
    assert "+1.00 to +5.00" in shown
    assert "<two>" not in shown


def test_bad_input_is_named(tmp_path: Path) -> None:
    done = call("report", tmp_path)
    assert done.code == 2
    assert "is no run" in done.err
    assert call("report", tmp_path / "a", tmp_path / "b").code == 2
    assert call("report", tmp_path, "-o", tmp_path / "nowhere" / "page.html").code == 2
    assert list(tmp_path.iterdir()) == []


def test_many_classes_show_those_that_changed_most() -> None:
    rows = [{"class": str(i), "student": i / 100, "teacher": 0.5, "baseline": None} for i in range(100)]
    figure = charts.class_changes(rows)
    assert figure is not None
    assert figure["data"][0]["y"] == [str(i) for i in [*range(20), *range(80, 100)]]
