"""A teacher's text in the place of the given answers: written once, kept, and learnt as if it were the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from kdtool.tasks.language.kept import Kept
from kdtool.tasks.language.models.writing import go_on, likeliest
from kdtool.tasks.language.written import prompts_of
from tests.running import call
from tests.tasks.language.small import TASK, chats
from tests.tasks.language.test_on_policy import World, answers
from tests.tasks.language.test_run import SMALL, distil


@pytest.fixture(autouse=True)
def home(own_home: Path) -> Path:
    return own_home


def kept(home: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(home.glob("answers/*/answers.jsonl"))]


def test_labels_are_what_the_teacher_writes_and_it_writes_once(tmp_path: Path, home: Path) -> None:
    world = World(tmp_path, data__teacher_tokens=9)
    teacher: Any = TASK.teachers(world.recipe, world.data, online=False)[0].tapped()
    batch = world.view(3, 0, 5)
    found = world.writer.taught(teacher, batch)
    greedy = go_on(teacher, prompts_of(batch), [9] * 3, world.end, likeliest)
    assert answers(found) == greedy
    assert found.labels.tolist() == [token for answer in greedy for token in answer]
    again: Any = World(tmp_path, data__teacher_tokens=9).writer
    before = kept(home)
    assert len(before[0].splitlines()) == 3
    assert torch.equal(again.taught(teacher, world.view(5, 3)).labels, torch.tensor(greedy[2] + greedy[0]))
    assert kept(home) == before
    other: Any = World(tmp_path, data__teacher_tokens=9, data__teacher_temperature=1.0).writer
    drawn = other.taught(teacher, batch)
    assert answers(drawn) != greedy
    assert answers(drawn)[1:2] == answers(other.taught(teacher, world.view(0)))
    assert len(kept(home)) == 2


def test_half_a_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    one = Kept(path)
    one.add([[1, 2], [3]], [[4], [5, 6]])
    path.write_bytes(path.read_bytes()[:-4])
    again = Kept(path)
    assert [1, 2] in again
    assert [3] not in again
    again.add([[3], [7]], [[5, 6], [8]])  # the first of which goes with the half
    last = Kept(path)
    assert last[[7]] == [8]
    assert [3] not in last


def test_runs_share_what_was_written(tmp_path: Path, home: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    more = ["--method", "seqkd", "data.teacher_tokens=6"]
    one = distil(tmp_path / "one", data, *more)
    written = kept(home)
    assert len(written) == 1
    same = distil(tmp_path / "same", data, *more)
    assert kept(home) == written
    other = distil(tmp_path / "other", data, *more, "--seed", "1")  # whose whole batches hold other samples, too
    lines = kept(home)[0].splitlines()
    assert kept(home)[0].startswith(written[0])
    assert len(lines) == len(set(lines))
    assert one.file() == same.file() != other.file()
    given = distil(tmp_path / "given", data, "--method", "none")
    assert given.file() != one.file()


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--method", "seqkd", "data.on_policy=0.5"], "leave on_policy out"), (["--method", "seqkd+kd"], "joined")],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, more: list[str], said: str) -> None:
    data = chats(tmp_path / "chats.jsonl")
    done = call("run", *SMALL, "--data", data, *more, "teacher.train.epochs=1", "--out", tmp_path / "run")
    assert done.code == 2
    assert said in done.err
