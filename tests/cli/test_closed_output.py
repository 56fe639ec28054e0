"""``kdtool … | head``: whoever reads the output leaves early. That is how other tools end, and nothing has failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtool.system import closed
from tests.cli.conftest import Answer
from tests.running import PAIR
from tests.sampling import sampled

Kdtool = Callable[..., Answer]


def _unread(*arguments: str) -> tuple[int, str]:
    """Run a command whose output nobody reads; return its exit code and what it says beside."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kdtool", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    return process.wait(), said


@pytest.mark.parametrize(
    "line", sampled(["--version", "run --help", "list-methods", "list-methods --json"], "--version", "list-methods")
)
def test_what_is_only_told(line: str) -> None:
    assert _unread(*line.split()) == (141, "")


def test_a_run_that_has_no_folder_yet_leaves_none(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    assert _unread("run", *PAIR, "--data", "digits", "--out", str(folder)) == (141, "")
    assert not folder.parent.exists()


def test_another_broken_pipe_is_a_failure(kdtool: Kdtool, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtool.runs import api

    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(api, "run", gone)
    answer = kdtool("run", *PAIR)
    assert answer.code == 3
    assert "Broken pipe" in answer.err
    assert not closed.is_why(BrokenPipeError())
