"""Log-probabilities that came with a teacher's answers, in the place of a network that gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import kdtool
from kdtool.cache.part import LOGITS, Part
from kdtool.generation.request import Request, Sampling
from kdtool.tasks.language.answerer import Answerer
from tests.generation.files import lines
from tests.generation.serving import Plan, serve
from tests.running import Done, call
from tests.sampling import sampled
from tests.tasks.language.small import SIZES, TASK, chats, recipe
from tests.tasks.language.test_run import distil

TOP = 6


def world(place: Path) -> tuple[Path, Path]:
    """Return a network that answers in whole words, and questions like those that it knows."""
    data = chats(place / "chats.jsonl", 1600)
    done = distil(place / "known", data, "--method", "none", "data.val_fraction=0", "train.batch_size=16", epochs=2)
    asked = [{"question": f"How are {one} and {other}? ({row})"} for row, (one, other) in enumerate(
        [("rain", "sun"), ("sun", "fire"), ("snow", "rain"), ("fire", "wool"), ("wool", "sun"), ("night", "stone"),
         ("stone", "rain"), ("sugar", "night")] * 3)]  # fmt: skip
    return done.folder / "student", lines(place / "asked.jsonl", asked)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return world(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def taught(teacher: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a set whose answers come with log-probabilities, those of their ends included."""
    out = tmp_path_factory.mktemp("set") / "taught"
    kdtool.generate(str(teacher[0]), teacher[1], out, new_tokens=40, logprobs=TOP, device="cpu")
    return out


def spoken(network: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what answers requests by a real network, as servers do: nothing of an answer's end."""
    answerer = Answerer(str(network), "cpu")

    def token(name: Any, value: float) -> dict[str, Any]:
        data = name.encode() if isinstance(name, str) else bytes(name)
        return {"token": data.decode(errors="replace"), "logprob": value, "bytes": list(data)}

    def choice(body: dict[str, Any]) -> dict[str, Any]:
        how = Sampling(0.0, 1.0, body["max_tokens"], 0, body["top_logprobs"])
        messages = tuple((each["role"], each["content"]) for each in body["messages"])
        (answer,) = answerer.ask([Request("", messages, how)])
        assert answer.logprobs is not None
        places = answer.logprobs[:-1] if answer.finish == "stop" else answer.logprobs
        content = [
            {**token(name, value), "top_logprobs": [token(*each) for each in likely]} for name, value, likely in places
        ]
        message = {"role": "assistant", "content": answer.text}
        return {"index": 0, "finish_reason": answer.finish, "message": message, "logprobs": {"content": content}}

    return choice


def own(taught: Path, network: Path, **more: Any) -> Any:
    """Return a recipe of a student of the network's vocabulary, on a set."""
    given = {"teacher__model": str(taught), "teacher__model_args": {}, "student__tokenizer": str(network),
             "data__val_fraction": 0.0}  # fmt: skip
    return recipe(taught, **{**given, **more})


@pytest.mark.parametrize("rest", sampled(["student", "even", "none"], "even"))
def test_a_server_teaches_what_its_network_does(teacher: tuple[Path, Path], tmp_path: Path, rest: str) -> None:
    network, asked = teacher
    plan = Plan()
    plan.choice = spoken(network)
    with serve(plan) as address:
        kdtool.generate(address, asked, tmp_path / "taught", new_tokens=40, logprobs=TOP)
    cfg = own(tmp_path / "taught", network, cache__rest=rest)
    data = TASK.open(cfg)
    (built,) = TASK.teachers(cfg, data, online=False)
    live = own(tmp_path / "taught", network, teacher__model=str(network))
    (alive,) = TASK.teachers(live, data, online=False)
    assert any("earlier turns, or another cut" in note for note in built.notes)
    part = Part(LOGITS, len(data.class_names), "fp32", 1, TOP)
    rows = 0
    for number in range(len(data.train)):
        inputs = _inputs(data, number)
        said = TASK.adapt(built.tapped(), built, built)(inputs)[0]
        with torch.no_grad():
            logits = alive.tapped()(inputs)[0].whole()
        beside = torch.randn(logits.shape, generator=torch.Generator().manual_seed(number))
        stored = {name: torch.from_numpy(part.encode(logits)[name].copy()) for name in ("rest", "index", "values")}
        wanted = part.decode(stored, torch.float64, rest, beside.double()).softmax(1)
        found = said.whole(beside).double().softmax(1)
        own_end = len(logits) - 1
        assert (found[own_end].argmax(), found[own_end].max()) == (data.tokens.library.eos_token_id, 1.0)
        # The server prints five digits.
        loss = [(p * (p.clamp(min=1e-30).log() - beside.double().log_softmax(1))).sum(1)[:own_end] for p in
                (wanted, found)]  # fmt: skip
        torch.testing.assert_close(loss[0], loss[1], atol=2e-4, rtol=1e-4)
        rows += own_end
    assert rows > 100


def _inputs(data: Any, number: int) -> Any:
    from kdtool.tasks.language.data.batches import padded

    return padded([data.train.samples[data.train.rows[number]]])


def given(taught: Path, network: Path) -> list[object]:
    """Return what every command takes."""
    return ["--task", "language", "--data", taught, "train.device=cpu", "train.batch_size=8", "optim.lr=0.01",
            "data.val_fraction=0", f"student.tokenizer={network}", "data.max_length=64", "data.views=1",
            *(f"student.model_args.{key}={value}" for key, value in SIZES.items())]  # fmt: skip


def run(folder: Path, taught: Path, network: Path, *more: object, epochs: int = 2) -> Done:
    return call("run", *given(taught, network), "--out", folder, "--epochs", epochs, *more, folder=folder)


@pytest.mark.slow
def test_a_run_learns_from_a_set_as_from_the_network(teacher: tuple[Path, Path], taught: Path, tmp_path: Path) -> None:
    network, _ = teacher
    said = run(tmp_path / "said", taught, network, "--teacher", taught, "--method", "kd")
    assert said.code == 0, said.err
    live = run(tmp_path / "live", taught, network, "--teacher", network, "--method", "kd", "cache.mode=build",
               f"cache.top_k={TOP}", "cache.dtype=fp32")  # fmt: skip
    assert live.code == 0, live.err
    one, other = (done.result["test"] for done in (said, live))
    assert one["student"]["nll"] == pytest.approx(other["student"]["nll"], rel=1e-4)
    assert one["teacher"]["nll"] == pytest.approx(other["teacher"]["nll"], abs=1e-3)
    plain = run(tmp_path / "plain", taught, network, "--method", "none")
    assert plain.code == 0, plain.err
    assert abs(plain.result["test"]["student"]["nll"] - one["student"]["nll"]) > 1e-3
    again = call("eval", said.folder, "--generate", "2")
    assert again.code == 0, again.err
    assert "agree" in again.out
    page = call("report", said.folder)
    assert page.code == 0, page.err
    times = call("profile", said.folder, "--length", 16, "--device", "cpu")  # of what computes, not of words
    assert times.code == 0, times.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["run", "--dry-run", "--method", "kd"], 0, "distill"),
        (["inspect", "--method", "kd"], 0, "It is"),
        (["cache", "build", "--method", "kd"], 2, "keeps all there is"),
    ],
)
def test_other_commands_take_a_set_as_the_teacher(
    teacher: tuple[Path, Path], taught: Path, command: list[str], code: int, said: str
) -> None:
    done = call(*command, *given(taught, teacher[0]), "--teacher", taught)
    assert done.code == code, done.err
    assert said in done.out + done.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "gkd", "data.on_policy=1"], "data.on_policy=0"),
        (["--method", "seqkd"], "--method none"),
        (["--method", "pkd"], "no hidden states"),
        (["--method", "kd", "cache.mode=build"], "cache.mode=build"),
        (["--method", "kd", "kd.temperature=4"], "temperature=4"),
        (["--method", "dml"], "cannot train along"),
        (["--method", "kd", "teacher.demonstrations=2"], "teacher.demonstrations=2"),
        (["--method", "kd", "student.tokenizer=own", "data.vocab_size=310"], "another vocabulary"),
    ],
)
def test_what_words_cannot_do_is_refused(
    teacher: tuple[Path, Path], taught: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    done = run(tmp_path / "run", taught, teacher[0], "--teacher", taught, *more)
    assert done.code == 2
    assert said in done.err


def test_a_set_teaches_what_it_has(teacher: tuple[Path, Path], taught: Path, tmp_path: Path) -> None:
    network, asked = teacher
    other = run(tmp_path / "run", chats(tmp_path / "other.jsonl"), network, "--teacher", taught, "--method", "kd")
    assert other.code == 2
    assert "samples are none of it" in other.err
    kdtool.generate(str(network), asked, tmp_path / "bare", new_tokens=40, device="cpu")
    bare = run(tmp_path / "run", tmp_path / "bare", network, "--teacher", tmp_path / "bare", "--method", "kd")
    assert bare.code == 2
    assert "--logprobs 20" in bare.err


def test_gkd_learns_from_a_set_what_the_student_does_not_write(
    teacher: tuple[Path, Path], taught: Path, tmp_path: Path
) -> None:
    done = run(tmp_path / "run", taught, teacher[0], "--teacher", taught, "--method", "gkd", "data.on_policy=0",
               epochs=1)  # fmt: skip
    assert done.code == 0, done.err
