"""What a student writes with a say of the teacher's, what each token is worth, and answers that are kept."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from kdtool.engine import rows
from kdtool.engine.credit import credit_of
from kdtool.engine.job import OWN, Beside
from kdtool.engine.precision import Precision
from kdtool.engine.teaching import FrozenTeachers
from kdtool.errors import InputError
from kdtool.method import Drawn
from kdtool.tasks.language.models.writing import Also, drawn, go_on
from kdtool.tasks.language.recent import Recent
from kdtool.tasks.language.written import texts_of
from tests.forking import Server
from tests.tasks.language.killed import student, to_the_end
from tests.tasks.language.small import TASK, chats
from tests.tasks.language.test_on_policy import World, answers
from tests.tasks.language.test_run import SMALL, distil

PROMPTS = [[5, 9, 30], [7], [40, 41, 42, 43, 44, 45]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("mixed"), train__seed=3)


@pytest.fixture(scope="module")
def teacher(world: World) -> Any:
    (built,) = TASK.teachers(world.recipe, world.data, False)
    return TASK.adapt(built.tapped(), built, world.built)


def test_each_token_is_drawn_from_the_mixture_of_both(world: World, teacher: Any) -> None:
    seen: list[torch.Tensor] = []

    def pick(logits_BV: torch.Tensor, place: int) -> torch.Tensor:
        seen.append(torch.softmax(logits_BV / 0.7, dim=1))
        return drawn(torch.arange(3), 0.7, "test", 0, 0)(logits_BV, place)

    theirs = [[1, 2, *prompt] for prompt in PROMPTS]  # as one reads them that has a context
    written = go_on(world.network, PROMPTS, [4] * 3, None, pick, Also(teacher.network, theirs, 0.3, 0.7))
    assert len(seen) == 4
    for place, shares_BV in enumerate(seen):
        for row, answer in enumerate(written):
            pairs = ((world.built.module, PROMPTS[row]), (teacher.module, theirs[row]))
            with torch.no_grad():
                logits = [module(torch.tensor([[*prompt, *answer[:place]]])).logits[0, -1] for module, prompt in pairs]
            own, other = ((each / 0.7).softmax(0) for each in logits)
            torch.testing.assert_close(shares_BV[row], 0.7 * own + 0.3 * other, rtol=1e-4, atol=1e-6)


def test_a_teacher_that_has_all_the_say_writes_alone(world: World, teacher: Any) -> None:
    given = world.view(3, 0, 5)
    alone = world.writer(teacher.network, given, "distill", 4)
    mixed = world.writer(world.network, given, "distill", 4, Beside(teacher, 1.0, torch.no_grad))
    assert answers(mixed) == answers(alone) != answers(world.writer(world.network, given, "distill", 4))
    assert mixed.drawn["class"].tolist() == [token for answer in answers(mixed) for token in answer]
    first, second = mixed.parts([1, 2])
    assert torch.equal(torch.cat([first.drawn["class"], second.drawn["class"]]), mixed.drawn["class"])


def test_credit_sees_whole_answers_as_the_loss_will(world: World, teacher: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(rows, "CHUNK", 3)
    loaded = world.writer(world.network, world.view(3, 0, 5), "distill", 4)
    precision = Precision("fp32", torch.device("cpu"))
    teachers = FrozenTeachers([teacher], precision)(loaded.inputs)
    seen: list[Drawn] = []

    def credit(found: Drawn) -> dict[str, torch.Tensor]:
        seen.append(found)
        return {"value": found.drawn}

    world.network.train()
    values = credit_of(credit, world.network, teachers, loaded, precision, 0.25, 0.8)
    assert world.network.training
    (found,) = seen
    assert found.lengths == loaded.rows
    want: list[list[float]] = []
    for ids, prompt, answer in zip(loaded.inputs["ids"].tolist(), prompts(loaded), answers(loaded), strict=True):
        with torch.no_grad():
            own, other = (net(torch.tensor([ids])).logits[0, prompt - 1 :, :300] for net in
                          (world.built.module.eval(), teacher.module))  # fmt: skip
        for place, token in enumerate(answer):
            mixed = 0.75 * (own[place] / 0.8).softmax(0)[token] + 0.25 * (other[place] / 0.8).softmax(0)[token]
            pair = [float(each[place].log_softmax(0)[token]) for each in (own, other)]
            want.append([*pair, float(mixed.log())])
    got = torch.stack([found.student, found.teachers[0], found.drawn], dim=1)
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-4, atol=1e-4)
    assert torch.equal(values["value"], found.drawn)
    with pytest.raises(InputError, match="one value a row"):
        credit_of(lambda _: {"value": torch.zeros(2)}, world.network, teachers, loaded, precision, 0.0, 1.0)


def prompts(loaded: Any) -> list[int]:
    return [int(following.nonzero()[0]) + 1 for following in loaded.inputs["next"]]


def test_the_newest_answers_are_kept_and_drawn_again(tmp_path: Path) -> None:
    world = World(tmp_path, train__seed=3)
    first = world.writer(world.network, world.view(3, 0, 5), "distill", 0, None, 5)
    world.writer(world.network, world.view(3, 0, 5), "distill", 0, None, 5)  # again for want of memory
    assert world.writer.count == 3
    second = world.writer(world.network, world.view(1, 2, 4), "distill", 1, None, 5)
    assert world.writer.count == 5
    every = {tuple(each) for batch in (first, second) for each in texts(batch)[1 if batch is first else 0 :]}
    again = world.writer.again(world.view(3, 0, 5), "distill", 2)
    assert again.view == OWN
    assert len(set(map(tuple, texts(again)))) == 3
    assert set(map(tuple, texts(again))) <= every
    other = World(tmp_path, train__seed=3)
    other.writer.load_state_dict(world.writer.state_dict())
    same = other.writer.again(world.view(3, 0, 5), "distill", 2)
    assert texts(same) == texts(again)
    assert torch.equal(same.index, again.index)
    assert texts(world.writer.again(world.view(3, 0, 5), "distill", 3)) != texts(again)
    many = world.writer.again(world.view(0, 1, 2, 3, 4, 5, 6), "distill", 2)
    assert many.samples == 7
    assert {tuple(each) for each in texts(many)} == every


def texts(loaded: Any) -> list[list[int]]:
    pairs = zip(loaded.inputs["ids"].tolist(), loaded.inputs["lengths"].tolist(), strict=True)
    return [ids[:length] for ids, length in pairs]


def test_nothing_is_kept_of_nothing() -> None:
    assert len(Recent.of(Recent().state())) == 0


def test_plain_texts_may_stay_beside_answers(tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    chats(both / "train-001.jsonl", 12)
    lines = [json.dumps({"text": f"The sky is number {number}, and it is blue."}) for number in range(12)]
    (both / "train-002.jsonl").write_text("\n".join(lines))
    world = World(tmp_path, train__seed=3, data__name=str(both), data__on_policy_texts="given")
    count = len(world.data.train)
    view = world.view(*range(count))
    stay = texts_of(view)
    assert 0 < sum(stay) < count
    found = world.writer(world.network, view, "distill", 4, None, 100)
    assert found.view == OWN
    assert world.writer.count == count - sum(stay)
    for before, after, given in zip(view.parts([1] * count), found.parts([1] * count), stay, strict=True):
        if given:
            assert texts(after) == texts(before)
            assert torch.equal(after.labels, before.labels)
            assert torch.equal(after.index, before.index)
            assert int(after.inputs["next"].sum()) == len(after.labels)
            assert (after.drawn["class"] == -1).all()
        else:
            assert (after.labels == -1).all()
            assert after.drawn["class"].tolist() == answers(after)[0]
    alone = world.view(*[number for number, given in enumerate(stay) if given])
    assert texts(world.writer(world.network, alone, "distill", 4)) == texts(alone)


POLICY = [
    "--method",
    "minillm",
    "minillm.objective=policy_gradient",
    "data.on_policy_tokens=6",
    "minillm.hard_weight=0.5",
]
ADAPTIVE = ["--method", "distillm", "distillm.adaptive=true", "data.on_policy_tokens=6", "distillm.tolerance=0"]


@pytest.mark.slow
def test_the_policy_gradient_of_a_batch_in_parts_is_that_of_the_whole(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    whole, parts = (
        distil(tmp_path / name, data, *POLICY, "minillm.on_policy=0.7", "train.precision=fp64", *more, epochs=1)
        for name, more in (("whole", []), ("parts", ["train.accumulate=3"]))
    )
    assert "the student writes 70% of the batches" in whole.out
    one, other = (done.log()[-1]["train"] for done in (whole, parts))
    assert {"single", "long"} <= set(one)
    assert one["long"] != 0
    assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
def test_the_share_of_own_answers_grows_while_the_loss_does_not_fall(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    still = [*ADAPTIVE, "--lr", "1e-30", "schedule.warmup_lr=0", "schedule.min_lr=0", "distillm.growth=0.4"]
    done = distil(tmp_path / "still", data, *still, epochs=4)
    assert [line["on_policy"] for line in done.log() if line["phase"] == "student"] == [0.0, 0.4, 0.8, 1.0]
    assert "the student writes 0% of the batches" in done.out
    kept = distil(tmp_path / "kept", data, *ADAPTIVE, "distillm.on_policy=1", "distillm.replay=8")
    new = distil(tmp_path / "new", data, *ADAPTIVE, "distillm.on_policy=1", "distillm.replay=0")
    assert kept.file() != new.file()


@pytest.mark.slow
def test_a_share_that_follows_from_nothing_is_refused(tmp_path: Path) -> None:
    from tests.running import PAIR, call

    data = chats(tmp_path / "chats.jsonl")
    more = ["teacher.train.epochs=1", "data.val_fraction=0", "train.select=last"]
    done = call("run", *SMALL, *ADAPTIVE, "--data", data, *more, "--out", tmp_path / "run")
    assert done.code == 2
    assert "data.val_fraction" in done.err
    digits = ["--data", "digits", "data.labels_per_class=8", "teacher.check=off", "--device", "cpu"]
    done = call("run", *PAIR, *POLICY[:3], *digits, "--out", tmp_path / "images")
    assert done.code == 2
    assert "on_policy=0" in done.err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks")
@pytest.mark.parametrize(
    "method",
    [POLICY, [*ADAPTIVE, "distillm.on_policy=0.5", "distillm.replay=12", "--lr", "0.3"]],
    ids=["policy", "adaptive"],
)
def test_a_killed_run_writes_the_same_again(tmp_path: Path, method: list[str]) -> None:
    data, server, draw = chats(tmp_path / "chats.jsonl"), Server(), random.Random(14)
    given = ["run", *SMALL, *method, "--data", data, "teacher.train.epochs=1", "--epochs", "4",
             "checkpoint.every_steps=1"]  # fmt: skip

    try:
        server.ready()
        assert server.run(tmp_path / "home", *given, "--out", tmp_path / "warm") == 0
        began = time.monotonic()
        assert server.run(tmp_path / "home", *given, "--out", tmp_path / "whole") == 0
        took, folder = time.monotonic() - began, tmp_path / "cut"
        to_the_end(server, tmp_path / "home", given, folder, took, 5, draw)
        assert student(folder) == student(tmp_path / "whole") == student(tmp_path / "warm")
    finally:
        server.close()
