"""Runs that are stopped, resumed, or share a machine: signals and locks need processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.running import PAIR, SMALL, Done, call, distil
from tests.sampling import sampled

FITNETS = [*PAIR, "--method", "fitnets"]
LONG = ["--epochs", "16", "fitnets.hint_epochs=2", "checkpoint.every_epochs=5"]


class Process:
    """``kdtool run`` in a process of its own; ended with the test, whatever happens."""

    def __init__(self, folder: Path, home: Path, *arguments: object):
        environment = {**os.environ, "KDTOOL_HOME": str(home), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        command = [sys.executable, "-u", "-m", "kdtool", "run", *SMALL, *FITNETS, *arguments]
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []

    def read_until(self, pattern: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return
        raise AssertionError(f"{pattern!r} was never said:\n" + "\n".join(self.lines))

    def end(self) -> int:
        self.lines += self.process.communicate(timeout=100)[0].splitlines()
        return self.process.returncode

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run as it is when nothing stops it."""
    return distil(tmp_path_factory.mktemp("whole") / "run", *FITNETS[4:], *LONG)


def _resumed(process: Process, home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Done:
    """Resume by the command that the stopped process printed, in this process."""
    last = process.lines[-1]
    assert last.startswith("error: stopped; resume with: kdtool ")
    assert "Traceback" not in process.said
    monkeypatch.setenv("KDTOOL_HOME", str(home))
    monkeypatch.chdir(folder)
    _, arguments = last.split("resume with: kdtool ")
    words = shlex.split(arguments)
    return call(*words, folder=folder / words[-1])


STOPS = [(r"^student distill 3/", signal.SIGTERM), (r"^teacher test_resnet train 1/", signal.SIGTERM)]


@pytest.mark.parametrize(
    ("until", "stopped_by"),
    sampled(STOPS, STOPS[0]),
    ids=["student", "teacher"],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    until: str, stopped_by: signal.Signals, whole: Done, processes: list[Process],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Where the student is stopped, the teacher comes from the other run.
    home = tmp_path / "home" if "teacher" in until else Path(os.environ["KDTOOL_HOME"])
    process = Process(tmp_path, home, *LONG, "--out", "my run")
    processes.append(process)
    process.read_until(until)
    process.process.send_signal(stopped_by)
    assert process.end() == 128 + stopped_by
    assert not (tmp_path / "my run" / "result.json").exists()
    again = _resumed(process, home, tmp_path, monkeypatch)
    assert again.code == 0, again.err
    assert "going on from stage" in again.out
    assert again.file() == whole.file()
    for part in ("test", "epochs", "steps"):
        assert again.result[part] == whole.result[part]
    epochs = [(line["stage"], line["epoch"]) for line in again.log()]
    assert epochs == [(line["stage"], line["epoch"]) for line in whole.log()]


@pytest.mark.slow
def test_runs_at_once_share_a_teacher_and_no_folder(processes: list[Process], tmp_path: Path) -> None:
    processes.append(Process(tmp_path, tmp_path / "home", "--epochs", "2"))
    processes[0].read_until("^teacher test_resnet train 1/")
    processes[0].process.send_signal(signal.SIGSTOP)
    processes.append(Process(tmp_path, tmp_path / "home", "--epochs", "2"))
    processes[1].read_until("waiting for another run that is training teacher test_resnet")
    processes[0].process.send_signal(signal.SIGCONT)
    assert [process.end() for process in processes] == [0, 0], [process.said for process in processes]
    assert "training it on digits first" in processes[0].said
    assert "reusing the one trained before" in processes[1].said
    assert "training it" not in processes[1].said
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == [f"test_resnet-test_efficientnet-fitnets-{n}" for n in (1, 2)]
    students = [(folder / "student" / "model.safetensors").read_bytes() for folder in folders]
    assert students[0] == students[1]
    kept = [path for path in (tmp_path / "home" / "teachers").iterdir() if path.suffix != ".lock"]
    assert [path.suffix for path in kept] == [""]
