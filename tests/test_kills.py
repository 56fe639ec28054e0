"""Commands that are really killed, at random moments and in every phase: the same bytes, and nothing left behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forking import Server
from tests.running import CHEAP, TEACHER, TWINS
from tests.tasks.text import runs as text

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks, and looks for processes in /proc")

KILLS = 30
"""Of each method, and of two processes."""

FEW = [*CHEAP, "data.val_fraction=0.05", "teacher.train.epochs=2"]
LENGTH = ["--epochs", "3", "--batch-size", "16", "checkpoint.every_steps=2"]
CACHED = ["cache.mode=build", "cache.shard_rows=16", "data.views=2"]
METHODS = {
    "kd": CACHED,
    "fitnets": ["fitnets.hint_epochs=1"],
    "ft": ["ft.paraphrase_epochs=1"],
    "crd": ["train.ema=0.9", *CACHED],
}
SENTENCES = {
    "kd": ["--student", "bilstm", "student.model_args={embedding: 32, hidden: 16}", "data.mask=0.1", *CACHED],
    "tinybert": ["--student", "transformer-tiny", "student.tokenizer=own"],
}
TASKS = {"images": METHODS, "text": SENTENCES}
PHASES = ("teacher", "shard", "checkpoint", "stage 0", "stage 1", "student")
TWO_STAGES = ("fitnets", "ft", "tinybert")


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two workers; the second starts when it is used."""
    started = [Server(), Server()]
    started[0].ready()
    yield started
    for each in started:
        each.close()


# --- where a run was --------------------------------------------------------------------------------------------------


def _written_aside(place: Path) -> bool:
    try:
        return any(place.rglob(".step-*"))
    except FileNotFoundError:  # a folder went while it was looked through
        return False


def phase(folder: Path, home: Path) -> str:
    """Tell where a run is, or was when it was killed, by what lies there."""
    if (folder / "result.json").exists():
        return "result"
    if (folder / "student").exists():
        return "student"
    if any(home.glob("outputs/*/*/.view*")):
        return "shard"
    if _written_aside(home) or _written_aside(folder):
        return "checkpoint"
    at = max((path.name for path in folder.glob("checkpoints/step-*")), default="")
    if at:
        return f"stage {int(at.split('-')[1])}"
    if any(home.glob("outputs/*/*")):
        return "cached"
    if any(home.glob("teachers/*.partial")):
        return "teacher"
    return "begun" if (folder / "recipe.yaml").exists() else "nothing"


def phases(method: str, task: str = "images") -> set[str]:
    """Return the phases in which each method has to be killed; "result" passes too fast to be asked for."""
    found = {"nothing", "teacher", "checkpoint", "stage 0", "student"}
    return (
        found
        | ({"stage 1"} if method in TWO_STAGES else set())
        | ({"shard"} if CACHED[0] in TASKS[task][method] else set())
    )


# --- runs -------------------------------------------------------------------------------------------------------------


def command(folder: Path, method: str, task: str = "images") -> list[object]:
    """Return what goes on with a run, or begins it where it was killed before its recipe was written."""
    if (folder / "recipe.yaml").is_file():
        return ["run", "--resume", folder]
    pair: list[object] = [*TWINS, *FEW]
    if task == "text":
        if not (table := folder.parent / "sentences.tsv").is_file():
            text.sentences(table)
        pair = [*text.SMALL, "--data", table, "--teacher", "transformer-tiny", *text.QUICK]
    return ["run", *pair, *LENGTH, "--method", method, *TASKS[task][method], "--out", folder]


@dataclass
class Life:
    """A run that is killed and resumed until it ends."""

    server: Server
    home: Path
    folder: Path
    method: str
    task: str = "images"

    def live(self, kills: list[float | str]) -> list[str]:
        """Run to the end, killed after so many seconds or in a phase; return the phases in which it was killed."""
        met: list[str] = []
        for kill in [*kills, None]:
            when = kill if isinstance(kill, float) else kill and self._in(kill)
            code = self.server.run(self.home, *command(self.folder, self.method, self.task), kill=when)
            if code == 0:
                return met
            assert code == -signal.SIGKILL, self.home.with_name(self.home.name + ".log").read_text()[-2000:]
            met.append(phase(self.folder, self.home))
        raise AssertionError("killed, though nobody did")

    def _in(self, wanted: str) -> Callable[[], bool]:
        return lambda: phase(self.folder, self.home) == wanted


def student(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "student").iterdir())}


def nothing_left(runs: Path, home: Path, *servers: Server) -> None:
    """Assert that no temporary file and no lock is there, and no process."""
    for place in (runs, home):
        hidden = [path for path in place.rglob("*") if path.name.startswith(".")]
        assert hidden + [path for path in place.rglob("*") if path.suffix in (".tmp", ".partial", ".lock")] == []
    assert list(home.rglob("checkpoints")) == []
    assert processes_of(home) == []
    assert [server.left() for server in servers if server.left()] == []


def until(something: Callable[[], bool], seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not something():
        assert time.monotonic() < end
        time.sleep(0.005)


def processes_of(home: Path) -> list[str]:
    here = f"KDTOOL_HOME={home}\0".encode()
    return [p.parent.name for p in Path("/proc").glob("[0-9]*/environ") if here in _read(p)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def killed_and_resumed(
    server: Server, folder: Path, method: str, kills: int, aims: set[str], task: str = "images"
) -> None:
    """Kill runs at so many random moments, and in phases that these missed; compare each with the whole run."""
    whole = Life(server, folder / "home", folder / "whole", method, task)
    began = time.monotonic()
    whole.live([])
    took = time.monotonic() - began
    draw, met = random.Random(method), Counter[str]()

    def cut(moments: list[float | str]) -> None:
        number = len(list(folder.glob("cut-*")))
        life = Life(server, folder / f"home-{number}", folder / f"cut-{number}", method, task)
        met.update(life.live(moments))
        assert student(life.folder) == student(whole.folder)
        assert (life.folder / "result.json").is_file()
        nothing_left(life.folder, life.home, server)

    while met.total() < kills:  # by the clock, which mostly meets the start, and in phases drawn by lot
        some = [each for each in PHASES if each in aims and draw.random() < 0.5]
        cut([draw.uniform(0.0, 0.9) * took, *some][: kills - met.total()])
    for _ in range(10):  # what passes in a moment may be missed
        if missing := sorted(aims - met.keys()):
            cut(list(missing))
    assert aims <= met.keys()
    print(f"{task}, {method}: {met.total()} kills: {dict(met)}")


def test_a_run_that_is_killed_ends_with_the_same_bytes(servers: list[Server], tmp_path: Path) -> None:
    killed_and_resumed(servers[0], tmp_path, "fitnets", 0, {"teacher", "stage 0"})


@pytest.mark.slow
def test_signals_once_and_twice(servers: list[Server], tmp_path: Path) -> None:
    home, server = tmp_path / "home", servers[0]
    life = Life(server, home, tmp_path / "cut", "ft")
    Life(server, home, tmp_path / "whole", "ft").live([])
    for signals, code in (([signal.SIGTERM], 143), ([signal.SIGINT], 130), ([signal.SIGINT, signal.SIGTERM], 143)):
        pid = server.start(home, *command(life.folder, "ft"))
        before = set(life.folder.glob("checkpoints/*"))
        until(lambda before=before: set(life.folder.glob("checkpoints/step-*")) != before)  # type: ignore[misc]
        for each in signals:
            os.kill(pid, each)
        assert server.wait(pid) == code
        assert not list(life.folder.glob("result.json"))
    said = home.with_name("home.log").read_text()
    assert said.count(f"error: stopped; resume with: kdtool run --resume {life.folder}") == 2
    assert life.live([]) == []
    assert student(life.folder) == student(tmp_path / "whole")
    nothing_left(tmp_path, home, server)


@pytest.mark.slow
def test_workers_that_a_killed_run_leaves_hold_nothing(servers: list[Server], tmp_path: Path) -> None:
    home, folder, server = tmp_path / "home", tmp_path / "run", servers[0]
    pid = server.start(home, *command(folder, "fitnets"), "data.workers=1", "data.crop=resized")
    until(lambda: phase(folder, home) == "stage 0")
    assert server.run(home, "run", "--resume", folder) == 2  # another process writes it
    os.kill(pid, signal.SIGKILL)  # it alone
    assert server.wait(pid) == -signal.SIGKILL
    assert server.run(home, "run", "--resume", folder) == 0
    until(lambda: not server.left())  # torch's workers look for their parent every five seconds
    nothing_left(folder, home, server)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "method"), [(task, method) for task in TASKS for method in TASKS[task]])
def test_killed_at_many_moments(servers: list[Server], tmp_path: Path, task: str, method: str) -> None:
    killed_and_resumed(servers[0], tmp_path, method, KILLS, phases(method, task), task)


# --- two processes ----------------------------------------------------------------------------------------------------


def pair(
    server: Server, home: Path, arguments: list[object], port: int, kill: tuple[float, list[int]] | None
) -> list[int]:
    """Run a command in two processes, as a launcher would; kill some of them after a time. Return their exit codes."""
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [server.start(home, *arguments, **together, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    if kill is not None:
        time.sleep(kill[0])
        for rank in kill[1]:
            os.killpg(started[rank], signal.SIGKILL)
        if len(kill[1]) == 1:
            time.sleep(0.5)  # one that lost the other may write what it likes; it is killed as a launcher would
            os.killpg(started[1 - kill[1][0]], signal.SIGKILL)
    return [server.wait(each) for each in started]


@pytest.mark.slow
def test_two_processes_that_are_killed_at_many_moments(servers: list[Server], tmp_path: Path) -> None:
    draw, port, met = random.Random(2), 20_000 + os.getpid() % 20_000, Counter[str]()
    for method in ("kd", "fitnets"):
        whole = tmp_path / method / "whole"
        whole.parent.mkdir()
        began = time.monotonic()
        assert pair(servers[0], whole.with_name("home"), command(whole, method), port, None) == [0, 0]
        took, killed, number = time.monotonic() - began, 0, 0
        while killed < KILLS // 2:
            number += 1
            cut, home = whole.with_name(f"cut-{number}"), whole.with_name(f"home-{number}")
            codes: list[int] = []
            while codes != [0, 0]:
                port += 1
                some = draw.choice(([0, 1], [0], [1]))
                kill = (draw.uniform(0, 0.9) * took, some) if killed < KILLS // 2 else None
                codes = pair(servers[0], home, command(cut, method), port, kill)
                if codes != [0, 0]:
                    assert -signal.SIGKILL in codes, home.with_name(home.name + ".log").read_text()[-2000:]
                    killed += 1
                    met[phase(cut, home)] += 1
            assert student(cut) == student(whole)
            nothing_left(cut, home, servers[0])
    print(f"two processes: {met.total()} kills: {dict(met)}")


@pytest.mark.slow
def test_a_launcher_that_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "KDTOOL_HOME": str(home), "OMP_NUM_THREADS": "1"}

    def run(folder: Path, kill: str | None) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "kdtool", *map(str, command(folder, "kd")), "--nproc", "2"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:
            if kill is not None and phase(folder, home) == kill:
                process.kill()
            time.sleep(0.01)
        return process.returncode

    assert run(tmp_path / "whole", None) == 0
    shutil.rmtree(home)
    for kill in ("teacher", "stage 0"):
        assert run(tmp_path / "cut", kill) == -signal.SIGKILL
        until(lambda: not processes_of(home))  # the others learn of it by a pipe
    assert run(tmp_path / "cut", None) == 0
    assert student(tmp_path / "cut") == student(tmp_path / "whole")
    nothing_left(tmp_path / "cut", home)


# --- other commands ---------------------------------------------------------------------------------------------------


def repeated(server: Server, home: Path, words: list[object], moments: list[float]) -> int:
    """Give a command again and again, killed after so many seconds each time; return how often it was killed."""
    for number, kill in enumerate([*moments, None]):
        code = server.run(home, *words, kill=kill)
        if code == 0:
            return number
        assert code == -signal.SIGKILL, home.with_name(home.name + ".log").read_text()[-2000:]
    raise AssertionError("killed, though nobody did")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_cache_build_that_is_killed(servers: list[Server], tmp_path: Path) -> None:
    words = ["cache", "build", f"teacher={TEACHER}", f"student={TEACHER}", "method=crd", *FEW, *CACHED]
    words += ["data.labels_per_class=null", "data.views=4"]
    home, draw, killed = tmp_path / "whole", random.Random(3), 0
    servers[0].run(home, *words)
    began = time.monotonic()
    servers[0].run(tmp_path / "again", *words)
    took = time.monotonic() - began
    for number in range(5):
        cut = tmp_path / f"cut-{number}"
        moments = [draw.uniform(0, 0.8) * took for _ in range(4)]
        killed += repeated(servers[0], cut, [*words, *(["--jobs", "2"] if number == 4 else [])], moments)
        assert files(cut / "outputs") == files(home / "outputs")
        nothing_left(tmp_path / "none", cut, servers[0])
    assert killed >= 10


@pytest.mark.slow
def test_an_export_that_is_killed(servers: list[Server], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    home, run, draw = tmp_path / "home", tmp_path / "run", random.Random(4)
    assert servers[0].run(home, *command(run, "kd")) == 0
    words = ["export", run, "--out"]
    began = time.monotonic()
    assert servers[0].run(home, *words, tmp_path / "whole") == 0
    took = time.monotonic() - began
    moments = [draw.uniform(0.1, 0.9) * took for _ in range(8)]
    assert repeated(servers[0], home, [*words, tmp_path / "cut"], moments) >= 4
    assert sorted(files(tmp_path / "cut")) == sorted(files(tmp_path / "whole"))
    made = json.loads((tmp_path / "cut" / "export.json").read_text())["exports"]
    assert all(each["accepted"] for each in made.values())
    nothing_left(tmp_path / "cut", home, servers[0])


# --- the soak ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_hundred_runs_in_two_lanes_with_kills(servers: list[Server], tmp_path: Path) -> None:
    home, runs = tmp_path / "home", tmp_path / "runs"
    runs.mkdir()
    right, took = {}, {}
    for method in METHODS:
        for folder in (tmp_path / method / "first", tmp_path / method / "second"):
            began = time.monotonic()
            Life(servers[0], home, folder, method).live([])
            took[method] = time.monotonic() - began
        right[method] = student(folder)

    def worker(number: int) -> Counter[str]:
        draw, met = random.Random(number), Counter[str]()
        for each in range(100):
            method = list(METHODS)[each % len(METHODS)]
            kills: list[float | str] = [draw.uniform(0, 1.5) * took[method] for _ in range(draw.choice((0, 0, 1, 2)))]
            met.update(Life(servers[number], home, runs / f"{number}-{each}-{method}", method).live(kills))
        return met

    with ThreadPoolExecutor(2) as workers:
        met = sum(workers.map(worker, range(2)), Counter[str]())
    print(f"soak: {met.total()} kills: {dict(met)}")
    assert met.total() >= 20
    done = sorted(runs.iterdir())
    assert len(done) == 200
    for folder in done:
        assert (folder / "result.json").is_file()
        assert student(folder) == right[folder.name.split("-")[2]]
    nothing_left(runs, home, *servers)
