"""The live view of a comparison, on a terminal of the tests' own."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kdtool.comparison.work import Job
from kdtool.terminal.compare import LiveWatcher, PlainWatcher, choose
from tests.terminal.test_compare_table import document


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def whole(seeds: int) -> dict[str, object]:
    runs = [{"student": "resnet10t", "method": "kd", "seed": seed, "state": "done", "top1": 0.9, "error": None}
            for seed in range(3)]  # fmt: skip
    runs[2] |= {"state": "failed", "error": "the loss is not finite"} if seeds == 3 else {"state": "running"}
    return {**document(seeds), "runs": runs, "says": ["kd gains."]}


def test_what_runs_now_stands_above_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    job = Job("resnet10t kd seed 2", str(tmp_path / "seed-2"), {})
    job.log.write_text("student distill 3/9\n\n")
    with LiveWatcher(terminal) as watcher:
        watcher.tick([job])  # nothing is known yet
        assert terminal.getvalue() == ""
        watcher.known(whole(2))
        watcher.tick([job])
        shown = terminal.getvalue()
        assert "2 of 3 runs done, 1 running" in shown
        assert "resnet10t kd seed 2: student distill 3/9" in shown
        assert shown.index("student distill") < shown.index("adversarial")
        watcher.known(whole(3))
        watcher.done(whole(3))
    ended = terminal.getvalue()[len(shown) :]
    assert "- kd gains." in ended
    assert "resnet10t kd seed 2 failed: the loss is not finite" in ended
    assert "\x1b[?25h" in ended  # the cursor is back
    assert not any(f"\x1b[{colour}" in terminal.getvalue() for colour in ("3", "9", "1;3", "38"))


def test_a_pipe_gets_a_line_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    PlainWatcher(stream).ended(whole(3)["runs"][0], whole(3))  # type: ignore[index]
    assert stream.getvalue() == "3/3  resnet10t kd seed 0: top-1 90.00 %\n"
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert type(choose(json=False, quiet=False)) is PlainWatcher
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert type(choose(json=False, quiet=False)) is PlainWatcher
