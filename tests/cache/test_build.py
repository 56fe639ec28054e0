"""Builds that are killed, shared among processes or begun twice give the same bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache.small import BUILD, build, caches, only, shards
from tests.running import call

MANY = ("method=rkd", "data.views=6", "cache.shard_rows=2")
"""480 shards: a build of a second or two, once it has begun."""


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdtool", "cache", "build", *map(str, BUILD), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


def clean_build(home: Path, *arguments: str) -> dict[str, str]:
    """Return the shards of an undisturbed build, and remove it."""
    build(*arguments)
    found = shards(only(home))
    only(home).rename(home / "clean")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_build_that_is_killed_goes_on_to_the_same_bytes(home: Path, jobs: str) -> None:
    want = clean_build(home, *MANY)
    process = begin(*MANY, "--jobs", jobs)
    wait_for(lambda: len(list((home / "outputs").glob("*/*/view*.npy"))) >= 20, process)
    process.kill()
    process.communicate()
    time.sleep(1.0)  # workers end with the process that started them
    left = shards(only(home))
    assert 20 <= len(left) < len(want)
    assert left.items() <= want.items()
    before = {name: (only(home) / name).stat().st_mtime_ns for name in left}
    build(*MANY)
    assert before == {name: (only(home) / name).stat().st_mtime_ns for name in left}
    assert shards(only(home)) == want
    assert not list(only(home).rglob("*.tmp"))


@pytest.mark.slow
def test_processes_share_the_work_and_give_the_same_bytes(home: Path) -> None:
    want = clean_build(home, *MANY)
    done = build(*MANY, "--jobs", "2")
    assert shards(only(home)) == want
    assert "240 shards to compute" in done.out


@pytest.mark.slow
def test_of_two_builds_at_once_the_second_waits(home: Path) -> None:
    want = clean_build(home, *MANY)
    processes = [begin(*MANY), begin(*MANY)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("shards to compute" in words for words in said) == 1
    assert shards(only(home)) == want


@pytest.mark.slow
def test_a_stopped_build_says_how_to_go_on(home: Path) -> None:
    process = begin(*MANY)
    wait_for(lambda: len(list((home / "outputs").glob("*/*/view*.npy"))) >= 5, process)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 143
    assert "stopped" in said


@pytest.mark.slow
def test_a_worker_that_fails_is_heard(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "sitecustomize.py"
    plugin.write_text(
        "import sys\nif 'kdtool.cache.worker' in ' '.join(sys.orig_argv):\n    sys.exit('no room here')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = begin(*MANY, "--jobs", "2")
    _, said = process.communicate()
    assert process.returncode == 3, said
    assert "that builds the teacher cache failed" in said


@pytest.mark.slow
def test_training_processes_build_together_and_replay(home: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "kdtool",
        "run",
        *map(str, BUILD),
        "method=rkd",
        "--teacher-cache",
        "--epochs",
        "2",
    ]
    command += ["--batch-size", "16", "cache.shard_rows=20", "--nproc", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 shards to compute" in done.stdout
    want = shards(only(home))
    assert len(want) == 16
    only(home).rename(home / "shared")
    build("method=rkd", "cache.shard_rows=20")
    assert shards(only(home)) == want


def test_what_keeps_no_outputs_is_refused(home: Path) -> None:
    for method, words in [("none", "it has no teacher"), ("dml", "its peers learn")]:
        done = call("cache", "build", *BUILD, f"method={method}")
        assert done.code == 2
        assert words in done.err
    done = call("cache", "build", *BUILD, "data.views=null")
    assert done.code == 2
    assert "data.views=K" in done.err


def test_a_dry_run_only_measures(home: Path) -> None:
    done = build("method=rkd", "data.views=5", "--dry-run", "--json")
    assert f'"bytes": {80 * 5 * (10 + 96) * 2}' in done.out
    assert not (home / "outputs").exists()


def test_several_recipes_are_built_in_one_go(home: Path, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.yaml").write_text(f"method: kd\ncache: {{top_k: {number + 1}}}\n")
    build(tmp_path / "0.yaml", tmp_path / "1.yaml")
    assert len(caches(home)) == 2
