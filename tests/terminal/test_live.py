"""The live view, drawn on a terminal of the tests' own."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from kdtool.events import Metric
from kdtool.terminal.live import RichReporter
from tests.terminal.runs import record, tell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> RichReporter:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return RichReporter(Terminal())


def drawn(reporter: RichReporter) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(reporter.block())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_block_shows_stage_epoch_eta_speed_terms_and_accuracy(
    reporter: RichReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("kdtool.terminal.live.time.monotonic", lambda: now[0])
    reporter.about("images", Metric())
    reporter.phase("student")
    reporter._begin_stage("distill", 3, 10, 0)
    assert "ETA ..." in drawn(reporter)
    now[0] = 5.0
    reporter.step({"kl": 0.5, "total": 0.5}, 5, 10, 640.0)
    text = drawn(reporter)
    assert "student · stage distill · epoch 1/3" in text
    assert "ETA 0:25" in text
    assert "640 images/s" in text
    assert "loss 0.5 (kl 0.5)" in text
    reporter.epoch(record(1))
    text = drawn(reporter)
    assert "epoch 2/3" in text
    assert "ETA 0:04" in text
    assert "val top-1" in text
    assert "90.00 %" in text
    assert "kl[b]" in text


def test_a_resumed_stage_starts_where_it_stopped(reporter: RichReporter) -> None:
    reporter._begin_stage("distill", 9, 10, 4)
    assert "epoch 5/9" in drawn(reporter)


def test_a_short_history_stays_in_view(reporter: RichReporter) -> None:
    for epoch in range(1, 21):
        reporter.epoch({**record(epoch), "epochs": 20})
    text = drawn(reporter)
    assert "20/20" in text
    assert "15/20" in text
    assert " 14/20" not in text


def test_a_whole_run_leaves_the_terminal_as_it_was(reporter: RichReporter) -> None:
    tell(reporter)
    assert reporter.live is None
    said = reporter.stream.getvalue()  # type: ignore[attr-defined]
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") > 0  # the cursor is hidden and shown again
    for words in ("student: [i]small[/i]", "warning: teacher is [u]weak[/u]", "kl[b]", "big[bold]net"):
        assert words in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)


def test_an_error_ends_the_view(reporter: RichReporter) -> None:
    def fail() -> None:
        with reporter:
            reporter.phase("student")
            reporter.stage("distill", 3, 10)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert reporter.live is None


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for value, colours in (("1", False), (None, True)):
        if value:
            monkeypatch.setenv("NO_COLOR", value)
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        reporter = RichReporter(Terminal())
        reporter.warn("careful")
        said = reporter.stream.getvalue()  # type: ignore[attr-defined]
        assert ("\x1b[33m" in said) is colours


def test_what_is_no_training_is_one_line_that_ends(reporter: RichReporter) -> None:
    reporter.about("answers", Metric())
    reporter.progress("asking [b]", 20, 80, {"tokens/s": 431.0, "failed": 2.0}, 2.0)
    assert reporter.live is not None
    console = Console(file=io.StringIO(), width=140)
    console.print(reporter.live.get_renderable())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for each in ("asking [b]", "20/80", "ETA 0:30", "2 answers/s", "tokens/s 431, failed 2"):
        assert each in text
    reporter.progress("asking [b]", 80, 80, {}, 2.0)
    assert reporter.live is None


def test_the_block_says_how_long_the_whole_run_takes(reporter: RichReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("kdtool.terminal.live.time.monotonic", lambda: now[0])
    reporter.outlook([("baseline", "train", 10.0), ("student", "distill", 30.0)])
    reporter.phase("baseline")
    reporter._begin_stage("train", 3, 10, 0)
    assert "of the run" not in drawn(reporter)
    now[0] = 5.0
    reporter.step({"total": 0.5}, 5, 10, 640.0)  # a second a step: 25 s are left, and three times 30 s for the student
    assert "ETA 0:25, of the run 1:55" in drawn(reporter)
