"""Every task's networks, divided among two processes, train what one process trains: in float64, to its last digits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tests.forking import Server
from tests.running import PAIR, SMALL, STUDENT
from tests.system.divided import DIVIDED, apart, log, run_alone, run_divided
from tests.tasks.language.small import LARGER, SIZES, chats
from tests.tasks.text.runs import sentences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks, and looks for processes in /proc"),
]

EXACT = 1e-11
"""Of the weights' size: sums of two halves are rounded elsewhere than those of the whole, and by no more."""

STEADY = [
    *("--device", "cpu", "--precision", "fp64", "optim.name=momentum", "--lr", "0.01", "schedule.name=constant"),
    *("schedule.warmup_epochs=0", "train.clip_grad=0.5", "--epochs", "2", "teacher.check=off"),
    *("teacher.train.epochs=1", "train.select=last"),
]
IMAGES = [*SMALL, *STEADY, "--student", STUDENT, "data.labels_per_class=8", "--epochs", "1", "train.freeze_bn=true"]
TEXT = ["--task", "text", "--batch-size", "16", "data.vocab_size=200", "data.max_length=16", *STEADY]
TEXT += ["--teacher", "transformer-tiny"]
# Processes draw dropout each for themselves.
BERT = ["--student", "transformer-tiny"]
BERT += ["student.model_args={hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}"]
BILSTM = ["--student", "bilstm", "student.model_args={embedding: 32, hidden: 16, dropout: 0.0}"]
LANGUAGE = ["--task", "language", "--batch-size", "8", "data.vocab_size=300", "data.max_length=64", *STEADY]
LANGUAGE += ["teacher.model=llama-tiny", "--student", "llama-tiny"]
LANGUAGE += [f"{side}.model_args.{key}={value}" for side, sizes in (("student", SIZES), ("teacher", LARGER))
             for key, value in sizes.items()]  # fmt: skip

TRAINED = ["--teacher", PAIR[1]]
WITHOUT_NORMS = ["--teacher", "test_vit"]  # whose norms see one sample each

CASES = {
    "two methods in one": [*IMAGES, *TRAINED, "--method", "rkd+vid", "optim.name=adamw"],
    "a memory bank": [*IMAGES, *TRAINED, "--method", "crd"],
    "a peer": [*IMAGES, *WITHOUT_NORMS, "--method", "dml"],
    "sentences": [*TEXT, *BERT, "--method", "kd"],
    "sentences in stages": [*TEXT, *BERT, "--method", "tinybert"],
    "recurrent": [*TEXT, *BILSTM, "--method", "logits"],
    "chats": [*LANGUAGE, "--method", "kd"],
    "chats, packed": [*LANGUAGE, "--method", "gkd", "data.packing=true"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which teachers are kept, beside the data."""
    folder = tmp_path_factory.mktemp("divided") / "home"
    folder.mkdir()
    sentences(folder.parent / "data.tsv", 60)
    chats(folder.parent / "data.jsonl", 30)
    return folder


def _given(name: str, home: Path) -> list[str]:
    data = {"sentences": "data.tsv", "recurrent": "data.tsv", "chats": "data.jsonl"}
    file = next((each for start, each in data.items() if name.startswith(start)), None)
    return [*CASES[name], *(["--data", str(home.parent / file)] if file else [])]


def _divided(name: str) -> list[str]:
    return DIVIDED[:1] if name == "recurrent" else DIVIDED  # it has no list of blocks


@pytest.mark.parametrize("name", CASES)
def test_two_that_divide_the_weights_train_what_one_does(name: str, server: Server, home: Path, tmp_path: Path) -> None:
    given = _given(name, home)
    run_alone(server, home, *given, "--out", tmp_path / "one")
    run_divided(server, home, *given, *_divided(name), "--out", tmp_path / "two")
    assert apart(tmp_path / "one", tmp_path / "two") <= EXACT
    for one, two in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=EXACT)
        known = {key: value for key, value in (one["val"] or {}).items() if value is not None}
        assert {key: two["val"][key] for key in known} == pytest.approx(known)


def test_a_peers_batch_norms_see_each_processs_own_samples(server: Server, home: Path, tmp_path: Path) -> None:
    """Nothing else sets a divided run of dml apart: without such norms it is exact, see above."""
    given = [*IMAGES, *TRAINED, "--method", "dml"]
    run_alone(server, home, *given, "--out", tmp_path / "one")
    run_divided(server, home, *given, *DIVIDED, "--out", tmp_path / "two")
    assert EXACT < apart(tmp_path / "one", tmp_path / "two") < 1e-4


def test_half_precision_and_parts_of_a_batch(server: Server, home: Path, tmp_path: Path) -> None:
    given = [*IMAGES, *TRAINED, "--method", "kd", "train.accumulate=2", "--precision", "bf16"]
    run_alone(server, home, *given, "--out", tmp_path / "one")
    run_divided(server, home, *given, *DIVIDED, "--out", tmp_path / "two")
    assert apart(tmp_path / "one", tmp_path / "two") <= 2e-3


@pytest.mark.parametrize("count", [1, 2])
def test_tied_weights_are_gone_on_with(count: int, server: Server, home: Path, tmp_path: Path) -> None:
    """A language model's embeddings are its head as well: one tensor of a checkpoint, under two names."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    run_divided(server, home, *_given("chats", home), *DIVIDED, "--out", whole)
    shutil.copytree(whole, again)
    for newer in (again / "checkpoints").glob("step-000001-*"):
        shutil.rmtree(newer)
    (again / "result.json").unlink()
    shutil.rmtree(again / "student")
    run_divided(server, home, "--resume", again, count=count)
    assert apart(whole, again) <= EXACT
    if count == 2:
        student = Path("student") / "model.safetensors"
        assert (again / student).read_bytes() == (whole / student).read_bytes()
