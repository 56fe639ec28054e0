"""Whole runs on chats that pass by, through the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("pyarrow", reason="pyarrow is an extra: pip install 'kdtool[parquet]'")

import kdtool
from kdtool.errors import InputError, Interrupted
from kdtool.events import Reporter
from kdtool.recipe.load import load
from tests.forking import Server
from tests.running import Done, call
from tests.tasks.language.corpus import LENGTHS, corpus, lines_of, write
from tests.tasks.language.killed import student, to_the_end
from tests.tasks.language.small import SIZES, saved, tokens, unigram

GIVEN = [
    "--task", "language", "--device", "cpu", "--batch-size", "8", "--lr", "0.01", "data.max_length=64", "--epochs", "2",
    "train.steps=6", "teacher.check=off",
]  # fmt: skip
GIVEN += [f"student.model_args.{key}={value}" for key, value in SIZES.items()]


pytestmark = pytest.mark.usefixtures("own_home")  # where shards are counted anew


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return corpus(tmp_path / "corpus")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return saved(tmp_path / "teacher", tokens(), max_position_embeddings=128)


def run(out: Path, folder: Path, *more: object) -> Done:
    return call("run", *GIVEN, "--data", folder, "--out", out, *more, folder=out)


def distil(out: Path, folder: Path, *more: object) -> Done:
    done = run(out, folder, *more)
    assert done.code == 0, done.err
    return done


def test_a_run_spends_its_steps_and_is_measured_on_what_is_held(folder: Path, teacher: Path, tmp_path: Path) -> None:
    done = distil(tmp_path / "run", folder, "--teacher", teacher, "--method", "gkd", "data.on_policy=0.5",
                  "data.on_policy_tokens=4", "data.packing=true", "data.workers=2", "--baseline", "data.max_length=40",
                  "data.views=1", "--teacher-cache")  # fmt: skip
    result = done.result
    assert result["steps"] == 6
    assert result["data"]["train"] == sum(LENGTHS)
    assert (result["data"]["val"], result["data"]["test"]) == (0, 10)
    assert "the training set is a stream of 50 samples in 3 shards" in done.out
    assert "streamed from 3 shards in 2 lanes through 2 workers, 3 steps an epoch" in done.out
    assert "the student writes 50% of the batches" in done.out
    assert "no outputs are kept or replayed: the samples of a stream pass by" in done.out
    assert "samples that passed since the run was last started" in " ".join(done.err.split() + done.out.split())
    found = call("eval", done.folder, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["metrics"]["perplexity"] == pytest.approx(
        result["test"]["student"]["perplexity"], rel=1e-5
    )
    refused = call("eval", done.folder, "--split", "train")
    assert refused.code == 2
    assert "--split train: the training set is streamed" in refused.err


def test_what_is_looked_at_before_says_that_it_is_a_stream(folder: Path, teacher: Path, tmp_path: Path) -> None:
    given = [*GIVEN, "--data", folder, "--teacher", teacher, "--method", "kd"]
    dry = call("run", *given, "--dry-run", "--json", "--out", tmp_path / "none")
    assert dry.code == 0, dry.err
    report = json.loads(dry.out)["data"]
    assert report["parts"]["training"]["samples"] == sum(LENGTHS)
    assert report["parts"]["training"]["origin"] == "a stream of 3 shards"
    assert report["parts"]["test"]["samples"] == 10
    assert any("a stream of 50 samples in 3 shards" in note for note in report["notes"])
    seen = call("inspect", *given)
    assert seen.code == 0, seen.err
    assert "50 training samples, streamed from 3 shards in 2 lanes" in " ".join(seen.out.split())
    assert "A training sample, with what is learnt of it" in seen.out


@pytest.mark.slow
def test_a_teacher_gives_a_part_of_itself_and_demonstrations_on_a_stream(
    folder: Path, teacher: Path, tmp_path: Path
) -> None:
    done = call("run", "--task", "language", "--device", "cpu", "--batch-size", "8", "train.steps=3", "--epochs", "1",
                "teacher.check=off", "--data", folder, "--teacher", teacher, "student.from_teacher.width=0.5",
                "teacher.demonstrations=1", "data.max_length=32", "--method", "kd", "--out",
                tmp_path / "run", folder=tmp_path / "run")  # fmt: skip
    assert done.code == 0, done.err
    assert "tokens before every sample, which the student does not" in done.out
    other = saved(tmp_path / "other", unigram(lines_of(tmp_path / "lines", 40)))
    done = distil(tmp_path / "uld", folder, "--teacher", other, "--method", "uld", "student.tokenizer=" + str(teacher))
    assert "has other tokens: " in done.out
    assert done.result["steps"] == 6


@pytest.mark.slow
def test_what_a_stream_cannot_do_is_refused_with_the_reason(folder: Path, teacher: Path, tmp_path: Path) -> None:
    for arguments, words in [
        (("--method", "crd"), "the method reads setup.num_samples"),
        (("--method", "seqkd"), "learns what the teacher writes, of which every answer is kept in memory"),
        (("cache.mode=require", "data.views=1"), "nothing is kept for the samples of a stream"),
        (("train.steps=1",), "train.steps=1 is less than train.epochs=2"),
        (("train.time_limit=1h",), "a stream has none: give it fewer train.steps"),
        (("train.class_weights=balanced",), "a stream, whose classes are not counted"),
        (("--teacher", "llama-tiny"), "would have to be trained on a stream"),
        (("--data", "pydocs"), "the budget of a stream (data.name=FOLDER"),
        (("--task", "text", "--data", folder), "of a stream, and the task 'text' has none"),
    ]:
        refused = run(tmp_path / "refused", folder, "--teacher", teacher, *arguments)
        assert refused.code == 2, (arguments, refused.out, refused.err)
        assert words in " ".join(refused.err.split()), (arguments, refused.err)
        assert not (tmp_path / "refused").exists()


# --- going on ---------------------------------------------------------------------------------------------------------


class Stopper(Reporter):
    """Asks for a stop after the first epoch."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_goes_on_to_the_same_bytes_unless_a_shard_changed(folder: Path, tmp_path: Path) -> None:
    given = ("--method", "none", "data.vocab_size=300")
    whole, stopped, other = distil(tmp_path / "whole", folder, *given), tmp_path / "stopped", tmp_path / "other"
    for out in (stopped, other):
        with pytest.raises(Interrupted):
            kdtool.run(load(whole.folder / "recipe.yaml", flags={"out": str(out)}), reporter=Stopper())
    resumed = kdtool.run(resume=stopped)
    assert resumed.values["steps"] == 6
    assert student(stopped) == whole.file()
    write(folder / "train-003.parquet", lines_of(tmp_path / "more", 20))
    with pytest.raises(InputError, match="other"):
        kdtool.run(resume=other)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks")
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(folder: Path, teacher: Path, tmp_path: Path) -> None:
    server, draw, home = Server(), random.Random(7), tmp_path / "home"
    given = ["run", *GIVEN, "--data", folder, "--teacher", teacher, "--method", "gkd", "data.on_policy=0.5",
             "data.on_policy_tokens=6", "train.steps=24", "checkpoint.every_steps=1", "data.workers=1"]  # fmt: skip
    try:
        server.ready()
        assert server.run(home, *given, "--out", tmp_path / "warm") == 0
        began = time.monotonic()
        assert server.run(home, *given, "--out", tmp_path / "whole") == 0
        took, killed, number = time.monotonic() - began, 0, 0
        while killed < 6:
            number += 1
            out = tmp_path / f"cut-{number}"
            killed += to_the_end(server, home, given, out, took, 6 - killed, draw)
            assert student(out) == student(tmp_path / "whole")
    finally:
        server.close()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without it")
@pytest.mark.slow
def test_two_processes_learn_what_one_does(folder: Path, teacher: Path, tmp_path: Path) -> None:
    more = ["--precision", "fp64", "--teacher", teacher, "--method", "kd"]
    alone = distil(tmp_path / "one", folder, *more).result["test"]["student"]["nll"]
    command = [sys.executable, "-m", "kdtool", "run", *GIVEN, "--data", folder, *more, "--nproc", "2", "--out",
               tmp_path / "two"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "result.json").read_text())["test"]["student"]["nll"]
    assert two == pytest.approx(alone, rel=1e-9)
