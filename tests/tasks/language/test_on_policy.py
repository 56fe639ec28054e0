"""Batches that the student writes: what is drawn, what becomes of it, and that a killed run draws it again."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from kdtool.engine.job import OWN, Loaded
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.models.writing import drawn, go_on, likeliest
from kdtool.tasks.language.written import prompts_of
from kdtool.tasks.task import Reading
from tests.forking import Server
from tests.tasks.language.killed import student, to_the_end
from tests.tasks.language.small import TASK, chats, recipe
from tests.tasks.language.test_run import SMALL, distil


class World:
    """A tiny student, its data, and its batches."""

    def __init__(self, folder: Path, **more: Any):
        self.recipe = recipe(chats(folder / "chats.jsonl"), data__on_policy_tokens=7, **more)
        self.data = TASK.open(self.recipe)
        self.built = TASK.student(self.recipe, self.data)
        self.network: Any = self.built.tapped()
        reading = Reading(4, 0, torch.device("cpu"), train=True)
        self.batches = TASK.batches(self.data, self.data.train, self.recipe, [self.built], reading)
        self.writer: Any = TASK.writer(self.data, self.recipe, self.built)
        self.end = self.data.tokens.library.eos_token_id

    def view(self, *positions: int) -> Any:
        return next(iter(self.batches.view(0, [torch.tensor(positions)])))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("own"), train__seed=3)


def answers(batch: Any) -> list[list[int]]:
    """Return what stands behind the prompts."""
    inputs = batch.inputs
    return [row[int(following.nonzero()[0]) + 1 : length] for row, following, length in
            zip(inputs["ids"].tolist(), inputs["next"], inputs["lengths"].tolist(), strict=True)]  # fmt: skip


def test_greedy_text_is_that_of_a_network_read_anew_for_every_token(world: World) -> None:
    prompts, most = [[5, 9, 30], [7], [40, 41, 42, 43, 44, 45]], [6, 3, 9]
    found = go_on(world.network, prompts, most, world.end, likeliest)
    for prompt, count, written in zip(prompts, most, found, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + count and (len(ids) == len(prompt) or ids[-1] != world.end):
            with torch.no_grad():
                ids.append(int(world.built.module(torch.tensor([ids])).logits[0, -1].argmax()))
        assert written == ids[len(prompt) :]


def test_tokens_are_drawn_as_often_as_they_are_likely_and_never_without_a_share() -> None:
    shares = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    samples = torch.arange(20_000)
    logits = shares.log().expand(len(samples), -1)
    count = torch.bincount(drawn(samples, 1.0, "test", 0, 0)(logits, 0), minlength=6) / len(samples)
    torch.testing.assert_close(count, shares, atol=0.015, rtol=0)
    assert count[shares == 0].sum() == 0
    cold = torch.bincount(drawn(samples, 0.5, "test", 0, 0)(logits, 0), minlength=6) / len(samples)
    torch.testing.assert_close(cold, shares**2 / (shares**2).sum(), atol=0.015, rtol=0)


def test_drawing_follows_from_sample_step_place_and_seed() -> None:
    samples, logits = torch.arange(50), torch.zeros(50, 300)
    one = drawn(samples, 1.0, "x", 1, 2)(logits, 3)
    order = torch.randperm(50)
    assert torch.equal(drawn(samples[order], 1.0, "x", 1, 2)(logits, 3), one[order])
    for other in (drawn(samples, 1.0, "y", 1, 2), drawn(samples, 1.0, "x", 0, 2), drawn(samples, 1.0, "x", 1, 1)):
        assert not torch.equal(other(logits, 3), one)
    assert not torch.equal(drawn(samples, 1.0, "x", 1, 2)(logits, 4), one)


def test_a_written_batch_keeps_the_prompts_and_learns_the_answers_alone(world: World) -> None:
    given = world.view(3, 0, 5)
    found = world.writer(world.network, given, "distill", 4)
    assert found.view == OWN
    assert (found.labels == -1).all()
    assert found.rows == [len(each) for each in answers(found)]
    assert sum(found.rows) == int(found.inputs["next"].sum()) == len(found.index)
    for number, count in enumerate(map(len, prompts_of(given))):
        assert torch.equal(found.inputs["ids"][number, :count], given.inputs["ids"][number, :count])
        assert not found.inputs["next"][number, : count - 1].any()
    assert all(1 <= len(each) <= 7 and world.end not in each[:-1] for each in answers(found))
    assert found.index.unique().tolist() == sorted(given.index[[0, given.rows[0], given.rows[0] + given.rows[1]]])
    halves = found.parts([1, 2])
    assert [part.view for part in halves] == [OWN, OWN]


def test_what_a_sample_gets_does_not_depend_on_its_batch(world: World) -> None:
    together = answers(world.writer(world.network, world.view(3, 0, 5), "distill", 4))
    alone = answers(world.writer(world.network, world.view(0), "distill", 4))
    assert together[1] == alone[0]
    assert alone != answers(world.writer(world.network, world.view(0), "distill", 5))
    assert alone != answers(world.writer(world.network, world.view(0), "other", 4))


def test_the_last_answer_is_written_anew_and_of_a_plain_text_its_second_half() -> None:
    ids = torch.arange(10).numpy()
    turns = torch.tensor([0, 0, 1, 1, 0, 0, 0, 1, 1, 1]).bool().numpy()
    text = torch.tensor([0] + [1] * 9).bool().numpy()
    given = Loaded(padded([(ids, turns), (ids, text), (ids[:2], text[:2])]), torch.zeros(0), torch.zeros(0), 0, [0] * 3)
    assert prompts_of(given) == [list(range(7)), list(range(5)), [0]]


def test_the_teacher_runs_live_on_what_no_cache_holds(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    more = ["--method", "gkd", "data.on_policy_tokens=6", "cache.mode=build", "data.views=1"]
    half = distil(tmp_path / "half", data, *more, "data.on_policy=0.5")
    assert "the student writes 50% of the batches" in half.out
    none = distil(tmp_path / "none", data, *more, "data.on_policy=0")
    same = distil(tmp_path / "same", data, *more, "gkd.on_policy=0.5")
    assert half.file() == same.file() != none.file()


@pytest.mark.slow
def test_own_samples_are_refused_where_nobody_judges_or_writes_them(tmp_path: Path) -> None:
    from tests.running import PAIR, call

    data = chats(tmp_path / "chats.jsonl")
    done = call("run", *SMALL, "--data", data, "--method", "none", "data.on_policy=0.5", "--out", tmp_path / "run")
    assert done.code == 2
    assert "--method gkd" in done.err
    done = call("run", *PAIR, "--method", "gkd", "gkd.on_policy=0.5", "--data", "digits", "data.labels_per_class=8",
                "teacher.check=off", "--device", "cpu", "--out", tmp_path / "images")  # fmt: skip
    assert done.code == 2
    assert "on_policy=0" in done.err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks")
def test_a_run_killed_at_twenty_moments_writes_the_same_again(tmp_path: Path) -> None:
    data, server, draw = chats(tmp_path / "chats.jsonl"), Server(), random.Random(14)
    given = ["run", *SMALL, "--method", "gkd", "--data", data, "data.on_policy=0.5", "data.on_policy_tokens=6",
             "teacher.train.epochs=1", "--epochs", "4", "checkpoint.every_steps=1", "cache.mode=build",
             "data.views=1"]  # fmt: skip

    try:
        server.ready()
        assert server.run(tmp_path / "home", *given, "--out", tmp_path / "warm") == 0
        began = time.monotonic()
        assert server.run(tmp_path / "home", *given, "--out", tmp_path / "whole") == 0
        took, killed, number = time.monotonic() - began, 0, 0
        while killed < 20:
            number += 1
            folder = tmp_path / f"cut-{number}"
            killed += to_the_end(server, tmp_path / "home", given, folder, took, 20 - killed, draw)
            assert student(folder) == student(tmp_path / "whole")
    finally:
        server.close()
