"""Plain lines, and the quiet reporter."""

from __future__ import annotations

import io

import pytest

from kdtool.events import Metric
from kdtool.terminal import Reporter, choose, plain
from tests.terminal.runs import record, tell


def test_one_line_an_event() -> None:
    stream = io.StringIO()
    tell(plain.PlainReporter(stream, table=False))
    assert stream.getvalue().splitlines() == [
        "student: [i]small[/i]",
        "warning: teacher is [u]weak[/u]",
        "student: stage hint, 1 epoch of 10 steps",
        "student hint 1/1  loss 0.25 (hint 0.25)  640 images/s  2.0 s",
        "student: stage distill, 3 epochs of 10 steps",
        *(
            f"student distill {epoch}/3  loss 0.75 (kl[b] 0.5, task 0.25)  val top-1 90.00 %  640 images/s  2.0 s"
            for epoch in (1, 2, 3)
        ),
    ]


def test_a_run_of_another_task_is_told_in_its_own_words() -> None:
    stream = io.StringIO()
    tell(plain.PlainReporter(stream, table=False), unit="documents", metric=Metric("macro_f1", "macro F1"))
    said = stream.getvalue()
    assert "640 documents/s" in said
    assert "top-1" not in said
    assert "images" not in said


def test_long_epochs_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(plain.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    reporter = plain.PlainReporter(stream, table=False)
    reporter.phase("student")
    reporter.stage("distill", 9, 100, epochs_done=4)
    for step in range(1, 101):
        now[0] += 1.0
        reporter.step({"total": 1.0}, step, 100, 64.0)
    lines = stream.getvalue().splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == [
        f"student: stage distill, step {step}/100 of epoch 5/9" for step in (30, 60, 90)
    ]
    reporter.epoch(record(5))
    assert reporter.done_epochs == 5


def test_what_is_no_training_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(plain.time, "monotonic", lambda: now[0])
    reporter = plain.PlainReporter(stream, table=False)
    reporter.about("answers", Metric())
    for done in range(1, 91):
        now[0] += 1.0
        reporter.progress("asking", done, 90, {"tokens/s": 431.2, "failed": 0.0}, 1.0)
    assert stream.getvalue().splitlines() == [
        "asking 30/90  tokens/s 431.2, failed 0  1 answers/s  ETA 1:00",
        "asking 60/90  tokens/s 431.2, failed 0  1 answers/s  ETA 0:30",
        "asking 90/90  tokens/s 431.2, failed 0  1 answers/s",
    ]


def test_quiet_keeps_warnings_and_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    tell(plain.QuietReporter(stream))
    assert capsys.readouterr().err == "warning: teacher is [u]weak[/u]\n"
    assert "student" in stream.getvalue()
    tell(plain.QuietReporter(None))


def test_the_base_keeps_silent(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Reporter())
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("tty", "term", "quiet", "expected"),
    [
        (False, "xterm", False, "PlainReporter"),
        (True, "dumb", False, "PlainReporter"),
        (True, "xterm", False, "RichReporter"),
        (True, "xterm", True, "QuietReporter"),
        (False, "xterm", True, "QuietReporter"),
    ],
)
@pytest.mark.parametrize("json", [True, False])
def test_the_reporter_fits_where_its_output_goes(
    monkeypatch: pytest.MonkeyPatch, tty: bool, term: str, quiet: bool, expected: str, json: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    ours, other = (Terminal() if tty else io.StringIO()), io.StringIO()
    monkeypatch.setattr("sys.stderr" if json else "sys.stdout", ours)
    monkeypatch.setattr("sys.stdout" if json else "sys.stderr", other)
    reporter = choose(json=json, quiet=quiet)
    assert type(reporter).__name__ == expected
    reporter.note("hello")
    assert "hello" not in other.getvalue()
    assert ("hello" in ours.getvalue()) is (not quiet)


def test_a_long_run_says_how_much_of_it_is_left() -> None:
    stream = io.StringIO()
    reporter = plain.PlainReporter(stream, table=False)
    reporter.outlook([("teacher t", "train", 10.0), ("baseline", "train", 20.0), ("student", "hint", 30.0)])
    record = {"phase": "teacher t", "stage": "train", "epoch": 3, "epochs": 4, "lr": 0.1, "seconds": 20.0,
              "samples_per_s": 5.0, "train": {"total": 1.0}, "val": None}  # fmt: skip
    reporter.epoch(record)  # 80 s for 10 units of work: 20 s of it are left, and 50 units
    reporter.epoch({**record, "phase": "student", "stage": "hint", "seconds": 1.0})
    first, second = stream.getvalue().splitlines()
    assert first.endswith("20.0 s  ETA of the run 7:00")
    assert "ETA" not in second


def test_an_epoch_without_a_step_that_counts_says_so_instead_of_a_loss_of_zero() -> None:
    stream = io.StringIO()
    reporter = plain.PlainReporter(stream, table=False)
    reporter.phase("student")
    reporter.stage("distill", 2, 1)
    reporter.epoch({**record(1), "train": {}, "skipped": 1})
    said = stream.getvalue()
    assert "2 epochs of 1 step\n" in said
    assert "no loss: every step was skipped" in said
    assert "loss 0" not in said
