"""Whole runs on a few chats, through the command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from kdtool import registry
from tests.running import Done, call
from tests.tasks.language.small import LARGER, SIZES, chats, saved, tokens

SMALL = [
    "--task", "language", "--device", "cpu", "--batch-size", "8", "--lr", "0.01", "data.vocab_size=300",
    "data.max_length=64", "teacher.model=llama-tiny", "teacher.check=off", "teacher.train.batch_size=8",
]  # fmt: skip
SMALL += [f"{side}.model_args.{key}={value}" for side, sizes in (("student", SIZES), ("teacher", LARGER))
          for key, value in sizes.items()]  # fmt: skip


def distil(folder: Path, data: Path, *more: object, epochs: int = 2) -> Done:
    """Run into ``folder``, and assert that it succeeds."""
    given = ["--data", data, "--epochs", epochs, "teacher.train.epochs=1", "--out", folder]
    done = call("run", *SMALL, *given, *more, folder=folder)
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("language-run")
    return distil(place / "run", chats(place / "chats.jsonl"), "--baseline", epochs=3)


def test_a_run_is_selected_and_compared_by_perplexity(run: Done) -> None:
    result = run.result
    assert result["metric"]["key"] == "perplexity"
    assert result["data"]["classes"] == 300
    assert set(result["test"]["student"]) == {"perplexity", "nll", "top1", "tokens"}
    assert result["gain"] == pytest.approx(
        result["test"]["baseline"]["perplexity"] - result["test"]["student"]["perplexity"], abs=1e-3
    )
    values = [line["val"]["perplexity"] for line in run.log() if line["phase"] == "student"]
    assert result["epochs"]["best"]["val"]["perplexity"] == min(values)
    assert values[-1] < values[0] < 300
    assert "guessing gives ln 300 = 5.70" in run.out
    assert "training tokens are learnt" in run.out


@pytest.mark.slow
def test_a_students_folder_gives_the_reported_perplexity_in_plain_transformers(run: Done) -> None:
    chat = json.loads((run.folder.parent / "chats.jsonl").read_text().splitlines()[0])["messages"]
    program = f"""
import json, sys, torch, transformers
folder = {str(run.folder / "student")!r}
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
total, count = 0.0, 0
for line in open({str(run.folder.parent / "test.jsonl")!r}):
    turns = json.loads(line)["messages"]
    text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    head = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    first = len(tokenizer(head, add_special_tokens=False).input_ids)
    log_p = model(ids).logits[0, :-1].log_softmax(1).gather(1, ids[0, 1:, None])[first - 1:]
    total, count = total - float(log_p.sum()), count + len(log_p)
assert not any(name.partition(".")[0] == "kdtool" for name in sys.modules)
print(json.dumps([total / count, count, model.config.eos_token_id == tokenizer.eos_token_id]))
"""
    assert chat[0]["role"] == "user"
    from kdtool.runs.student import last_recipe
    from kdtool.tasks.language.data.chats import Chat
    from tests.tasks.language.small import TASK

    data = TASK.open(last_recipe(run.folder))
    lines = [json.dumps({"messages": each.messages}) for each in data.sources(data.test) if isinstance(each, Chat)]
    (run.folder.parent / "test.jsonl").write_text("\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    nll, count, ends = json.loads(done.stdout)
    reported = run.result["test"]["student"]
    assert ends
    assert count == reported["tokens"]
    assert math.exp(nll) == pytest.approx(reported["perplexity"], rel=1e-5)


def test_a_saved_model_teaches_and_gives_a_part_of_itself(run: Done, tmp_path: Path) -> None:
    data, folder = run.folder.parent / "chats.jsonl", run.folder
    given = ["--task", "language", "--device", "cpu", "--batch-size", "8", "--teacher", folder, "--data", data]
    done = call("run", *given, "--epochs", "1", "data.max_length=64", "student.from_teacher.layers=1", "--out",
                tmp_path / "cut", folder=tmp_path / "cut")  # fmt: skip
    assert done.code == 0, done.err
    assert "student: layers 0 of teacher" in done.out
    assert done.result["test"]["teacher"]["perplexity"] == pytest.approx(
        run.result["test"]["student"]["perplexity"], rel=1e-5
    )


def test_a_packed_run_learns_the_same(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    # The same batches: without lengths to sort by.
    plain, packed = (
        distil(tmp_path / name, data, "train.batch_size=36", f"data.packing={name == 'packed'}", "--method", "none",
               "data.val_fraction=0", epochs=1).result["test"]["student"]["nll"]
        for name in ("plain", "packed")
    )  # fmt: skip
    assert plain == pytest.approx(packed, rel=1e-4)


def test_another_vocabulary_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    from kdtool.tasks.language.models.tokens import trained_on

    teacher = saved(tmp_path / "teacher", trained_on(["other words entirely zz qq"], 280))
    student = saved(tmp_path / "student", tokens())
    done = call("run", "--task", "language", "--data", chats(tmp_path / "chats.jsonl"), "--teacher", teacher,
                "--student", student, "--device", "cpu", "--out", tmp_path / "run")  # fmt: skip
    assert done.code == 2
    assert "has another vocabulary than the student" in done.err
    assert "student.from_teacher.layers=N" in done.err


ROW_WISE = ["kd", "dkd", "dist", "fitnets", "sp", "none", "dml", "logits"]


@pytest.mark.parametrize("name", ROW_WISE)
def test_methods_run_on_tokens(name: str, tmp_path: Path) -> None:
    assert name == "none" or name in {entry.name for entry in registry.entries()}
    done = distil(tmp_path / "run", chats(tmp_path / "chats.jsonl", 24), "--method", name, epochs=2)
    assert done.result["test"]["student"]["perplexity"] < 300


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without it")
@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")

    def nll(name: str, *more: Any) -> float:
        done = distil(tmp_path / name, data, "--precision", "fp64", "--lr", "0.003", *more, epochs=1)
        found: float = done.result["test"]["student"]["nll"]
        return found

    alone = nll("one")
    assert nll("accumulated", "train.accumulate=3") == pytest.approx(alone, rel=1e-6)
    command = [sys.executable, "-m", "kdtool", "run", *SMALL, "--data", str(data), "--epochs", "1", "--precision",
               "fp64", "--lr", "0.003", "teacher.train.epochs=1", "--nproc", "2", "--out",
               str(tmp_path / "two")]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "result.json").read_text())["test"]["student"]["nll"]
    assert two == pytest.approx(alone, rel=1e-6)
