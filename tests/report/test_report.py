"""``kdtool report``: a page that opens offline, in Chromium, and shows what ``kdtool eval`` says."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly")

from kdtool.report import charts, made
from kdtool.report.html import render
from kdtool.report.of_comparison import chapter
from kdtool.report.sections import Chapter, Chart
from kdtool.terminal import words
from tests.report.browser import needs_chromium, opened
from tests.running import call, distil, write_images
from tests.sampling import every

EXPORTED = {
    "metric": "top-1",
    "exports": {"onnx": {"accepted": True, "bytes": 1.2e6, "top1": 0.5}, "int8": {"accepted": False}},
    "speed": {"onnx": [{"median_ms": 0.52}]},
}
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


def evaluations(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``kdtool eval --json`` says of the student, with its teacher, and of the baseline."""
    student, alone = (json.loads(call("eval", each, "--json").out) for each in (run, run / "baseline" / "student"))
    return student, alone


def table_of(page: str, title: str) -> list[list[str]]:
    """Return the rows of the table in the card with that title, without the heading."""
    (card,) = re.findall(rf"<h3>{title}</h3>(.*?)</section>", page, re.DOTALL)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", card, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows[1:]]


def figures_of(page: str) -> dict[str, Any]:
    """Return the figures by the title of their card."""
    found = json.loads(re.search(r'<script id="figures" type="application/json">(.*?)</script>', page)[1])  # type: ignore[index]
    titles = re.findall(r'<h3>([^<]*)</h3>\s*(?:<p class="soft">[^<]*</p>\s*)?<div class="plot" id="([^"]*)"', page)
    assert len(titles) == len(found)
    return {html.unescape(title): found[name] for title, name in titles}


def test_every_number_on_the_test_split_is_one_of_eval(run: Path, found: dict[str, Any]) -> None:
    student, alone = evaluations(run)
    (teacher,) = student["teachers"]
    (section,) = found["sections"]
    assert (section["evaluation"], section["baseline"]) == (student, alone)
    page = page_of(found)
    model = json.loads((run / "result.json").read_text())["student"]["name"]
    expected = []
    for part, name, each, agreement in (
        ("teacher", teacher["name"], teacher, teacher["agreement"]),
        ("student", model, {**student, **student["target"]}, None),
        ("baseline", model, {**alone, **alone["target"]}, None),
    ):
        shares = [each["metrics"].get(key) for key in ("top1", "top5", "macro_recall", "macro_f1")]
        shares += [each["calibration"]["ece"], agreement]
        sizes = [words.count(each["params"]), words.count(each["macs"]), words.size(each["bytes"])]
        expected.append([part, name, *map(words.percent, shares), *sizes])
        assert each["bytes"] > each["params"]
    assert table_of(page, "Networks") == expected
    classes = [{row["class"]: row["recall"] for row in each["per_class"]} for each in (teacher, student, alone)]
    assert table_of(page, "Classes") == [
        [row["class"], str(row["support"]), *(words.percent(each[row["class"]]) for each in classes)]
        for row in student["per_class"]
    ]
    gained = 100 * (student["metrics"]["top1"] - alone["metrics"]["top1"])
    assert dict(re.findall(r'<span class="soft">([^<]*)</span><b>([^<]*)</b>', page)) == {
        "student top-1": words.percent(student["metrics"]["top1"]),
        "gain over baseline": f"{gained:+.2f} points",
        "teacher top-1": words.percent(teacher["metrics"]["top1"]),
        "smaller than the teacher": f"{teacher['params'] / student['target']['params']:.1f} times",
        "agrees with the teacher": words.percent(teacher["agreement"]),
        "calibration error": words.percent(student["calibration"]["ece"]),
    }


def recalls(evaluation: dict[str, Any]) -> dict[str, float]:
    """Each class's recall, by its name beside an axis."""
    rows = evaluation["per_class"]
    return dict(zip(charts.labels([row["class"] for row in rows]), (row["recall"] for row in rows), strict=True))


def test_long_names_are_cut_where_they_still_differ() -> None:
    assert charts.labels(["<b>", "american staffordshire terrier"]) == ["&lt;b&gt;", "american …e terrier"]
    alike = ["american_staff_of_a_terrier", "american_fox_of_a_terrier"]
    assert charts.labels(alike) == alike


def test_every_figure_on_the_test_split_is_drawn_from_eval(run: Path, found: dict[str, Any]) -> None:
    student, alone = evaluations(run)
    (teacher,) = student["teachers"]
    figures = figures_of(page_of(found))
    (heat,) = figures["Confusion"]["data"]
    names = charts.labels(student["confusion"]["classes"])
    assert (heat["x"], heat["y"], heat["text"]) == (names, names, student["confusion"]["counts"])
    lines = {line["name"].split(",")[0]: line for line in figures["Reliability"]["data"][1:]}
    for part, each in (("teacher", teacher), ("student", student), ("baseline", alone)):
        bins = [row for row in each["calibration"]["bins"] if row["count"]]
        drawn = list(zip(lines[part]["x"], lines[part]["y"], lines[part]["text"], strict=True))
        assert drawn == [(row["confidence"], row["accuracy"], row["count"]) for row in bins]
        assert lines[part]["name"].endswith(f"ECE {100 * each['calibration']['ece']:.2f} %")
    own = recalls(student)
    for bars in figures["Classes: the student's recall less that of others"]["data"]:
        other = recalls({"less the teacher": teacher, "less the baseline": alone}[bars["name"]])
        assert dict(zip(bars["y"], bars["x"], strict=True)) == {
            name: pytest.approx(100 * (own[name] - other[name])) for name in own
        }


def test_the_curves_are_the_log(run: Path, found: dict[str, Any]) -> None:
    figures = figures_of(page_of(found))
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    alone = [json.loads(line) for line in (run / "baseline" / "metrics.jsonl").read_text().splitlines()]
    loss = figures["Loss terms"]
    drawn = {trace["name"]: trace["y"] for trace in loss["data"]}
    assert drawn == {name: [record["train"].get(name) for record in log] for name in drawn}
    assert set(drawn) == {name for record in log for name in record["train"]}
    assert [note["text"] for note in loss["layout"]["annotations"]] == ["hint", "distill"]
    for trace, records in zip(figures["Accuracy"]["data"], (log, alone), strict=True):
        values = [(record["val"] or {}).get("top1") for record in records]
        assert trace["y"] == [None if value is None else 100 * value for value in values]
    rates = [trace["y"] for trace in figures["Learning rate"]["data"]]
    assert [next(value for value in column if value is not None) for column in zip(*rates, strict=True)] == [
        record["lr"] for record in log
    ]


def test_names_are_shown_letter_by_letter(found: dict[str, Any]) -> None:
    shown = page_of(found)
    before_scripts = shown.split('<script id="figures"')[0]
    assert html.escape(HOSTILE) in before_scripts
    assert HOSTILE not in shown
    assert "a &amp; b" in before_scripts
    assert not re.findall(r'(?:src|href)="(?!data:)', before_scripts)


@needs_chromium
@pytest.mark.parametrize("width", every(2, [400, 1400]))
def test_it_opens_in_chromium(found: dict[str, Any], width: int, tmp_path: Path) -> None:
    dom, said = opened(Path(found["page"]), width, tmp_path)
    assert "CONSOLE" not in said, said
    body = dom.split('<script id="figures"')[0]
    for text in (
        "Loss terms",
        "Reliability",
        "Soft labels",
        "is least certain of",
        "Embedding of the student",
        "baseline",
        "teacher, T = 1",
    ):
        assert text in body
    assert body.count("main-svg") >= body.count('class="plot')  # every figure is drawn


@needs_chromium
def test_an_error_of_a_page_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!doctype html><script>nothing.here()</script>")
    _, said = opened(tmp_path / "page.html", 400, tmp_path)
    assert "CONSOLE" in said


def chapter_of_a_comparison(**more: Any) -> Chapter:
    """A chapter on three methods, two of which differ from the first."""

    def row(method: str, mean: float, difference: dict[str, float] | None) -> dict[str, Any]:
        figures = {"mean": mean, "sd": 0.01, "difference": difference}
        return {"student": "small", "method": method, "seeds": 3, "best": figures, "last": figures,
                "cost": {"seconds": 12.0, "host_bytes": 750_000_000}}  # fmt: skip

    rows = [row("none", 0.9, None), row("one", 0.93, {"pairs": 3, "mean": 0.03, "low": 0.01, "high": 0.05}),
            row("<two>", 0.89, {"pairs": 3, "mean": -0.01, "low": -0.04, "high": 0.02})]  # fmt: skip
    whole = {"methods": ["none", "one", "<two>"], "students": ["small"], "seeds": [0, 1, 2], "reference": "none",
             "rows": rows, "says": ["one gains 3 points."], **more}  # fmt: skip
    profile = {"small": {"speed": [{"median_ms": 4.5}]}}
    return chapter({"folder": "study", "comparison": whole, "profile": profile})


def test_a_comparison_is_ranked() -> None:
    found = chapter_of_a_comparison()
    shown = render("x", [found])
    figures = [card.figure for card in found.cards if isinstance(card, Chart) and card.figure]
    ranked = figures[0]["data"][0]
    assert (ranked["y"], ranked["x"]) == (["&lt;two&gt;", "one"], pytest.approx([-1.0, 3.0]))
    assert ranked["error_x"]["array"] == pytest.approx([3.0, 2.0])
    at = {trace["name"]: (trace["x"], trace["y"]) for trace in figures[1]["data"]}
    assert at["one"] == ([4.5], [pytest.approx(93.0)])
    assert at["none"][0][0] < 4.5 < at["&lt;two&gt;"][0][0]  # side by side
    assert all(trace["customdata"] == [4.5] for trace in figures[1]["data"])
    assert "one gains 3 points." in shown
    assert table_of(shown, "All of it")[0] == [
        *("small", "one", "3", "93.00 ± 1.00", "+3.00", "+1.00 to +5.00", "93.00 ± 1.00", "12.0", "750.0 MB")
    ]
    assert "<two>" not in shown


def test_a_comparisons_page_has_the_teachers_line_and_that_of_guessing() -> None:
    runs = [{"teacher_top1": 0.95, "chance": 0.1}, {"teacher_top1": 0.97, "chance": 0.1}, {"state": "failed"}]
    charted = [card.figure for card in chapter_of_a_comparison(runs=runs).cards if isinstance(card, Chart)]
    assert charted[1] is not None
    lines = {trace["name"]: trace for trace in charted[1]["data"] if trace["mode"] == "lines"}
    assert lines["teacher 96.00 %"]["y"] == pytest.approx([96.0, 96.0])
    assert lines["teacher 96.00 %"]["visible"] is True
    assert lines["guessing 10.00 %"]["visible"] == "legendonly"  # or all dots would lie on one another
    reached = {"a": 0.12, "b": 0.3}
    near = charts.metric_and_latency(
        [{"student": "s", "method": name, "best": {"mean": mean, "sd": None}} for name, mean in reached.items()],
        {"s": 1.0}, charts.Metric(), "images", {"guessing": 0.1},
    )  # fmt: skip
    assert near is not None
    assert near["data"][-1]["visible"] is True


def test_the_page_says_how_a_run_was_made(run: Path, found: dict[str, Any]) -> None:
    lines = dict(table_of(page_of(found), "How it was made"))
    assert lines["recipe"].startswith("method=fitnets train.epochs=2 train.batch_size=32")
    assert lines["seed"] == "0"
    assert "threads" in lines["machine"]
    assert "torch " in lines["machine"]
    assert lines["exports"] == f"none yet: kdtool export {run}"
    assert call("eval", run, "--corrupt", "noise:5").code == 0
    (kept,) = json.loads((run / "robustness.json").read_text())
    shown = dict(made.card(str(run), {**made.made(run), "exports": EXPORTED}, {}).rows)
    assert shown["robustness"].startswith(f"noise:5 {words.percent(kept['top1'])}")
    assert shown["exports"] == "onnx 1.2 MB, top-1 50.00 %, 0.52 ms"


def test_a_metric_that_falls_is_ranked_and_named_as_such() -> None:
    metric = {"key": "ppl", "label": "perplexity", "larger_is_better": False, "percent": False}
    found = chapter_of_a_comparison(metric=metric, unit="documents")
    shown = render("x", [found])
    ranked, latency = (card.figure for card in found.cards if isinstance(card, Chart) and card.figure)
    assert (ranked["data"][0]["y"], ranked["data"][0]["x"]) == (["one", "&lt;two&gt;"], pytest.approx([0.03, -0.01]))
    assert latency["layout"]["xaxis"]["title"]["text"] == "milliseconds for one document, median"
    assert latency["layout"]["yaxis"]["title"]["text"] == "test perplexity"
    assert [row[1] for row in table_of(shown, "All of it")] == ["<two>", "none", "one"]
    assert "best perplexity" in shown
    assert "Less is better." in shown
    assert "top-1" not in shown.split("<script id=")[0]


@needs_chromium
@pytest.mark.parametrize("width", every(2, [400, 1400]))
def test_a_comparison_opens_in_chromium(width: int, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render("x", [chapter_of_a_comparison()]), encoding="utf-8")
    dom, said = opened(tmp_path / "page.html", width, tmp_path)
    assert "CONSOLE" not in said, said
    body = dom.split('<script id="figures"')[0]
    for text in ("Ranking", "points over none", "Accuracy and latency", "milliseconds for one image", "+1.00 to +5.00"):
        assert text in body


def test_a_comparison_that_has_not_ended_says_so() -> None:
    states = ["done", "failed", "waiting", "waiting"]
    found = chapter_of_a_comparison(runs=[{"state": state} for state in states])
    assert found.sentences[0].startswith("3 methods, 1 student, 3 seeds; ")
    assert found.sentences[1].startswith("2 of 4 runs have not ended")
    assert found.sentences[1].endswith("to go on: kdtool compare --resume study")
    over = chapter_of_a_comparison(runs=[{"state": "done"}, {"state": "failed"}])
    assert not any("not ended" in sentence for sentence in over.sentences)


NARROWED = """<script>
const every = () => [...document.querySelectorAll(".plot")];
setTimeout(() => {
  document.querySelector("main").style.width = "300px";
  every().forEach((plot) => Plotly.Plots.resize(plot)); // as the page's observer does, which wants frames to be drawn
}, 3000);
const widths = (plot) => [plot.clientWidth, plot.querySelector("svg.main-svg").getAttribute("width")].join(" ");
setTimeout(() => { document.title = `widths ${every().map(widths).join(", ")}`; }, 7000);
</script>"""


@pytest.mark.slow
@needs_chromium
def test_figures_follow_a_page_that_becomes_narrower(tmp_path: Path) -> None:
    whole = render("x", [chapter_of_a_comparison()])
    body, _, end = whole.rpartition("</body>")
    assert body
    (tmp_path / "page.html").write_text(f"{body}{NARROWED}</body>{end}", encoding="utf-8")
    dom, _ = opened(tmp_path / "page.html", 1000, tmp_path)
    found = re.search(r"<title>widths ([^<]+)", dom)
    assert found is not None
    pairs = [each.split() for each in found[1].split(", ")]
    assert len(pairs) == 2
    assert all(given == drawn and int(given) < 300 for given, drawn in pairs), pairs


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


OWN = """
from torch import nn

def make(num_classes):
    body = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, num_classes))
"""


@pytest.mark.slow
def test_runs_of_a_users_own_code_have_a_page_of_their_own_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(OWN + "\nopened = open('opened', 'a').write('x')\n")
    data = write_images(tmp_path / "photos", {"a": 16, "b": 16})
    more = ["--data", data, "--image-size", "32", "--teacher", "net.py:make", "--student", "net.py:make"]
    more += ["--epochs", "1", "--teacher-epochs", "1", "--batch-size", "8", "teacher.check=off", "train.device=cpu"]
    assert call("run", *more, "--out", "run").code == 0
    assert call("compare", *more, "--methods", "none,kd", "--seeds", "1", "--out", "study", "--quiet").code == 0
    before = Path("opened").read_text()

    done = call("report", "run", "--json")
    assert done.code == 0, done.err
    page = page_of(json.loads(done.out))
    reached = json.loads(Path("run/result.json").read_text())["test"]["student"]["top1"]
    assert words.percent(reached) in [cell for row in table_of(page, "Networks") for cell in row]
    assert "a file with code (teacher.0.model=net.py:make)" in html.unescape(page)

    done = call("report", "study", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["sections"][0]["profile"] == {}
    page = page_of(found)
    assert [row[1] for row in table_of(page, "All of it")] != []
    assert "net.py:make is not timed" in html.unescape(page)
    assert Path("opened").read_text() == before  # no code was run
