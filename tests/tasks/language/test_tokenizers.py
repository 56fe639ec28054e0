"""A teacher with another tokenizer than the student: whole runs, and what a step of them sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("transformers")

from kdtool.engine import tree
from kdtool.engine.precision import Precision
from kdtool.engine.step import TASK as LABELS
from kdtool.engine.step import Step, teach
from kdtool.engine.taught import Taught
from kdtool.runs.setting import Setting, build_setting
from tests.running import Done, call
from tests.tasks.language.small import LARGER, chats, saved, tokens, unigram, wordpiece

METHOD = "uld"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with chats, and networks of three tokenizers."""
    folder = tmp_path_factory.mktemp("tokenizers")
    chats(folder / "chats.jsonl", 40)
    saved(folder / "words", wordpiece(), seed=3, **LARGER)
    saved(folder / "spaces", unigram(), seed=4)
    saved(folder / "student", tokens(), seed=5)
    return folder


def setting(place: Path, *teachers: str, **more: Any) -> Setting:
    from kdtool.recipe import load as recipes

    given = {
        "task": "language", "method": METHOD, "data.name": str(place / "chats.jsonl"), "data.max_length": 64,
        "train.device": "cpu", "train.batch_size": 8, "student.model": str(place / "student"),
        "teacher": [{"model": str(place / each)} for each in teachers], **more,
    }  # fmt: skip
    return build_setting(recipes.from_dict(given))


def terms(of: Setting, loaded: Any) -> dict[str, float]:
    """Return a step's terms in float64."""
    networks = of.networks
    step = (
        Step(networks.student_net, of.method, [], of.objective.hard_loss, Precision("fp64", of.device)).double().eval()
    )
    step.stage = of.stages[-1].stage
    teachers = [net.double().eval() for net in networks.teacher_nets]
    with torch.no_grad():
        taught = teach(teachers, loaded.inputs, step.precision)
        known = None if loaded.taught is None else Taught(loaded.taught)
        found, _ = step(loaded.inputs, loaded.labels, loaded.index, taught, 0, 0.0, 1.0, known)
    return {name: float(value) for name, value in found.items()}


def rows_of(of: Setting, number: int) -> list[tuple[Tensor, Tensor, int]]:
    """Return of each pair of rows of a sample the student's and the teacher's logits, each network run on it alone."""
    data, twin = of.data, next(iter(of.data.twins.values()))
    ids, _ = data.train.samples[number]
    other, _ = twin.samples[number]
    student, teacher = of.networks.student_net.module, of.networks.teacher_nets[0].module
    own = slice(data.train.samples.starts[number], data.train.samples.starts[number + 1])
    theirs = slice(twin.samples.starts[number], twin.samples.starts[number + 1])
    with torch.no_grad():
        ours = student(torch.from_numpy(ids.astype("int64"))[None]).logits[0]
        their = teacher(torch.from_numpy(other.astype("int64"))[None]).logits[0]
    pairs = zip(twin.met[own].nonzero()[0].tolist(), twin.meets[theirs].nonzero()[0].tolist(), strict=True)
    return [(ours[a - 1], their[b - 1], int(ids[a])) for a, b in pairs]


def batch_of(of: Setting) -> Any:
    return next(iter(of.train_batches.epoch(0)))


def samples_in(of: Setting, loaded: Any) -> list[int]:
    offsets, firsts, at = of.data.train.offsets, [], 0
    for count in loaded.rows:
        firsts.append(int(loaded.index[at]))
        at += count
    return [int(of.data.train.rows[offsets.searchsorted(first, side="right") - 1]) for first in firsts]


def test_a_steps_terms_are_those_of_each_network_on_each_sample_alone(place: Path) -> None:
    one = setting(place, "words")
    loaded = batch_of(one)
    found = terms(one, loaded)
    pairs = [pair for number in samples_in(one, loaded) for pair in rows_of(one, number)]
    assert len(pairs) == int(loaded.taught.sum()) < len(loaded.labels)
    total = 0.0
    for ours, theirs, _ in pairs:
        a, b = (each.softmax(0).sort(descending=True).values for each in (ours, theirs))
        width = max(len(a), len(b))
        total += float((F.pad(a, (0, width - len(a))) - F.pad(b, (0, width - len(b)))).abs().sum())
    (name,) = found.keys() - {LABELS}
    assert found[name] == pytest.approx(1.5 * total / len(pairs), rel=1e-6)
    with torch.no_grad():
        logits = one.networks.student_net(loaded.inputs)[0].whole()
    assert found[LABELS] == pytest.approx(float(F.cross_entropy(logits, loaded.labels)), rel=1e-6)


def changed(loaded: Any, change: Any) -> Any:
    """Return a batch whose inputs, the student's and the teacher's, are changed."""
    from dataclasses import replace

    inputs = {name: change(each) if isinstance(each, dict) else each for name, each in loaded.inputs.items()}
    own = change({name: each for name, each in loaded.inputs.items() if not isinstance(each, dict)})
    return replace(loaded, inputs={**inputs, **own})


def test_padding_never_changes_a_loss(place: Path) -> None:
    one = setting(place, "words")
    loaded = batch_of(one)
    want = terms(one, loaded)

    def padding(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        behind = torch.arange(inputs["ids"].shape[1]) >= inputs["lengths"][:, None]
        ids = torch.where(behind, 7, inputs["ids"])
        wider = {name: F.pad(each, (0, 5), value=3 if name == "ids" else 0)
                 for name, each in {**inputs, "ids": ids}.items() if each.ndim == 2}  # fmt: skip
        return {**inputs, **wider}

    found = terms(one, changed(loaded, padding))
    assert found == pytest.approx(want, rel=1e-9)
    # And what is learnt does change it: the comparison is not blind.
    assert terms(one, changed(loaded, lambda inputs: {**inputs, "ids": inputs["ids"].flip(1)})) != pytest.approx(want)


def test_a_batch_of_one_sample_and_packed_ones_see_the_same(place: Path) -> None:
    plain, packed = setting(place, "words"), setting(place, "words", **{"data.packing": True})
    packed.networks.student_net.load_state_dict(plain.networks.student_net.state_dict())
    loaded = batch_of(plain)
    want = terms(plain, loaded)
    assert terms(packed, loaded) == pytest.approx(want, rel=1e-6)
    parts = loaded.split(8)
    each = [terms(plain, part) for part in parts]
    (name,) = want.keys() - {LABELS}
    known = [int(part.taught.sum()) for part in parts]
    mean = sum(one[name] * count for one, count in zip(each, known, strict=True)) / sum(known)
    assert mean == pytest.approx(want[name], rel=1e-9)


def test_two_teachers_of_two_tokenizers_speak_of_the_rows_that_both_have(place: Path) -> None:
    both = setting(place, "words", "spaces")
    one, other, joint = (batch_of(each).taught for each in (setting(place, "words"), setting(place, "spaces"), both))
    assert torch.equal(joint, one & other)
    assert 0 < int(joint.sum()) < int(one.sum() + other.sum())
    assert any("of every teacher's" in note for note in both.data.notes)
    assert all(torch.isfinite(torch.tensor(list(terms(both, batch_of(both)).values()))))


def test_inputs_are_a_tree_of_samples(place: Path) -> None:
    loaded = batch_of(setting(place, "words"))
    sizes = [3, 5]
    for part, size in zip(tree.split(loaded.inputs, sizes), sizes, strict=True):
        assert all(len(each) == size for each in tree.tensors(part))


RUN = ["--task", "language", "--device", "cpu", "--batch-size", "8", "--lr", "0.01", "data.max_length=64"]


def run(place: Path, folder: Path, *more: object) -> Done:
    given = ["--data", place / "chats.jsonl", "--teacher", place / "words", "--student", place / "student"]
    return call("run", *RUN, *given, "teacher.check=off", "--out", folder, *more, folder=folder)


@pytest.mark.parametrize("more", [["--method", "kd"], ["--method", f"kd+{METHOD}"]])
def test_other_methods_are_refused_and_one_that_can_is_named(place: Path, tmp_path: Path, more: list[str]) -> None:
    done = run(place, tmp_path / "run", *more)
    assert done.code == 2
    assert "has another vocabulary than the student" in done.err
    assert f"--method {METHOD}" in done.err


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("data.on_policy=0.5", "cannot read what the student has just written"),
        ("teacher.demonstrations=1", "a context is written in shared ones"),
    ],
)
def test_what_cannot_be_done_is_refused(place: Path, tmp_path: Path, key: str, why: str) -> None:
    done = run(place, tmp_path / "run", "--method", METHOD, key)
    assert done.code == 2
    assert why in done.err.replace("\n", " ")


@pytest.mark.slow
def test_a_run_learns_says_what_is_compared_and_is_resumed_byte_for_byte(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdtool.engine.update import Updater

    more = ["--method", METHOD, "--epochs", "3", "checkpoint.every_steps=2", "--baseline", "train.accumulate=2"]
    whole = run(place, tmp_path / "whole", *more)
    assert whole.code == 0, whole.err
    assert "training tokens that are learnt begin where one of its own does" in whole.out
    losses = [line["train"] for line in whole.log() if line["phase"] == "student" and "train" in line]
    assert losses, whole.log()[:3]
    values = [line["val"]["perplexity"] for line in whole.log() if line["phase"] == "student" and line.get("val")]
    assert values[-1] < values[0]
    teacher = whole.result["teacher"]
    assert teacher["apart"]
    # Of its own rows: as many as the teacher's own tokens are.
    tested = whole.result["test"]
    assert tested["teacher"]["tokens"] != tested["student"]["tokens"]
    assert not any("little to teach" in each for each in whole.result["says"])

    taken, usual = [0], Updater.__call__

    def stopping(self: Updater, *given: Any, **named: Any) -> Any:
        if self.job.method is not None:
            taken[0] += 1
            if taken[0] == 7:
                raise KeyboardInterrupt
        return usual(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", stopping)
        stopped = run(place, tmp_path / "stopped", *more)
    assert stopped.code != 0
    resumed = call("run", "--resume", tmp_path / "stopped", folder=tmp_path / "stopped")
    assert resumed.code == 0, resumed.err
    assert resumed.file() == whole.file()


@pytest.mark.slow
def test_replayed_outputs_are_the_live_ones(place: Path, tmp_path: Path) -> None:
    more = ["--method", METHOD, "--epochs", "1", "data.views=1"]
    live = run(place, tmp_path / "live", *more)
    kept = run(place, tmp_path / "kept", *more, "cache.mode=build", "cache.dtype=fp32")
    few = run(place, tmp_path / "few", *more, "cache.mode=build", "cache.top_k=16")
    for done in (live, kept, few):
        assert done.code == 0, done.err
    assert "outputs replayed from" in kept.out
    one, other, top = (done.result["test"]["student"]["nll"] for done in (live, kept, few))
    assert one == pytest.approx(other, rel=1e-5)
    assert one == pytest.approx(top, rel=2e-2)
    found = call("eval", kept.folder)
    assert found.code == 0, found.err
    assert "has other tokens than the student" in found.out + found.err
