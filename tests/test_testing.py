"""The conformance kit: it passes a sound method, finds each kind of fault, and keeps declared exceptions honest."""

from __future__ import annotations

import copy
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.errors import InputError
from kdtool.losses import softened_kl
from kdtool.testing import CHECKS, CheckError, check_method, check_names, kit, parametrize_with_checks, run_checks
from kdtool.testing.bench import Bench
from tests.sampling import every


class Sound(Method):
    """The student matches the teachers' softened probabilities."""

    api = 1
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the term", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": self.cfg.weight * sum(softened_kl(batch.student.logits, t.logits, 2.0) for t in batch.teachers)}


class OldContract(Sound):
    """Written for another version."""

    api = 99


class Undocumented(Sound):
    """One option lacks help."""

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the term")
        other: int = 3


class OutOfRange(Sound):
    """Its default is not among what it allows."""

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the term", max=0.5)


class LooseTensor(Sound):
    """Keeps a tensor that is no buffer."""

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.centre = torch.zeros(3)


class ShipsAnother(Sound):
    """Ships a network that is not the student's."""

    def ships(self, student: nn.Module) -> nn.Module:
        return nn.Linear(3, 3)


class ShipsACopy(Sound):
    """Ships the student as it was before the training, behind a layer of no account."""

    def ships(self, student: nn.Module) -> nn.Module:
        own = self.setup.student_parts.classifier
        still = copy.deepcopy(student)
        setattr(still, own.name, nn.Sequential(still.get_submodule(own.name), nn.Identity()))
        return still


class NoSuchLayer(Sound):
    """Taps a module that only some CNNs have."""

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"map": "layer3"})


class OnlyMaps(Sound):
    """Taps the embedding and takes it for a map."""

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"map": "embedding"})

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"map": batch.student.taps["map"].mean((2, 3)).sum()}


class Unweighted(Sound):
    """Returns one value a sample."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": (batch.student.logits - batch.teachers[0].logits).square().mean(1)}


class TakesTheEnginesName(Sound):
    """Calls its term as the engine calls the hard-label loss."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"task": super().loss(batch)["kl"]}


class Half(Sound):
    """Computes its loss in half precision."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"l2": F.mse_loss(batch.student.logits.bfloat16(), batch.teachers[0].logits.bfloat16())}


class Narrow(Sound):
    """Casts to fp32 whatever comes."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"l2": F.mse_loss(batch.student.logits.float(), batch.teachers[0].logits.float())}


class FirstTeacherOnly(Sound):
    """Announces several teachers, and holds one."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        (teacher,) = batch.teachers
        return {"kl": softened_kl(batch.student.logits, teacher.logits, 2.0)}


class Root(Sound):
    """The square root of a distance: no gradient where the networks agree."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"l2": (batch.student.logits - batch.teachers[0].logits).square().sum().sqrt()}


class NeedsLabels(Sound):
    """Divides by the number of labelled samples."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(batch.student.logits, batch.labels.long(), ignore_index=-1)}


class NeedsClasses(Sound):
    """Reads labels as classes, and does not say so."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        picked = batch.teachers[0].logits.gather(1, batch.labels.clamp_min(0)[:, None])
        return {"l2": (batch.student.logits - picked).square().mean()}


class WritesOverTheTeacher(Sound):
    """Centres the teacher's logits in place."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        batch.teachers[0].logits -= batch.teachers[0].logits.mean()
        return super().loss(batch)


class TrainsNothing(Sound):
    """A stage whose loss the student has no part in."""

    def stages(self) -> list[Stage]:
        return [Stage("idle", lambda batch: {"none": batch.teachers[0].logits.mean()}, epochs=1, task_weight=0.0)]


class Idle(Sound):
    """Has a layer that no stage uses."""

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.extra = nn.Linear(2, 2)


class MovesByHand(Sound):
    """Writes into a parameter after the step."""

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.scale = nn.Parameter(torch.ones(()))
        self.average = nn.Parameter(torch.zeros(()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": self.scale * super().loss(batch)["kl"]}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.average += 1


class DeafPeers(Sound):
    """Online, but its peers learn nothing."""

    online = True

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": softened_kl(batch.student.logits, batch.teachers[0].logits.detach(), 2.0)}


class CountsInPython(Sound):
    """Its weight grows with a number that no checkpoint holds."""

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.seen = 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": (1 + self.seen) * super().loss(batch)["kl"]}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.seen += 1


class ReadsMemory(Sound):
    """Reads what lies in memory around a teacher's logits, which differs between live and stored ones."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        whole = batch.teachers[0].logits.untyped_storage().nbytes()
        return {"odd": whole * batch.student.logits.square().mean()}


class TellsCompilation(Sound):
    """Computes something else when compiled."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": (2.0 if torch.compiler.is_compiling() else 1.0) * super().loss(batch)["kl"]}


class Relates(Sound):
    """Couples samples without saying so."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        student, teacher = (x - x.mean(0) for x in (batch.student.logits, batch.teachers[0].logits))
        return {"relation": (student @ student.T - teacher @ teacher.T).square().mean()}


class RelatesGlobally(Relates):
    """Couples samples, and says so."""

    batch = "global"


class Drifts(Sound):
    """Keeps an average that each process computes from its own samples."""

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.register_buffer("centre", torch.zeros(setup.num_classes))

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.centre += batch.student.logits.mean(0)


class Raises(Sound):
    """Fails in other processes only."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if torch.distributed.is_initialized():
            raise RuntimeError("no processes here")
        return super().loss(batch)


def run(check: str, cls: type[Method]) -> None:
    (found,) = [each for each in CHECKS if each.name == check]
    assert found.unless(cls) is None
    found.run(Bench(cls, cls.__name__.lower(), "images"))


FAULTS = [
    ("contract", OldContract, "version 99"),
    ("options", Undocumented, r"undocumented\.other: no help"),
    ("defaults", OutOfRange, r"weight=1\.0 is out of range"),
    ("defaults", LooseTensor, r"self\.centre.*register_buffer"),
    ("taps", NoSuchLayer, "ViT student.*layer3"),
    ("fp32", OnlyMaps, "Dimension out of range"),
    ("fp32", Unweighted, "CNN student, CNN teacher, stage distill: .*scalar tensors by name; kl"),
    ("fp32", TakesTheEnginesName, "called task"),
    ("bf16", Half, "bfloat16"),
    ("fp64", Narrow, "l2 is of lower precision"),
    ("several-teachers", FirstTeacherOnly, "too many values"),
    ("equal-networks", Root, "not finite"),
    ("missing-labels", NeedsLabels, "no label at all.*ce is nan"),
    ("mixed-labels", NeedsClasses, "mixed labels.*gather"),
    ("frozen-teacher", WritesOverTheTeacher, "in place"),
    ("training", TrainsNothing, "depends on nothing"),
    ("training", Idle, r"no stage trains method\.extra"),
    ("training", MovesByHand, r"average moved without a gradient"),
    ("training", DeafPeers, "peer 0 trains in no stage"),
    ("state", CountsInPython, "another loss"),
    ("replay", ReadsMemory, "stored outputs"),
    ("ships", ShipsAnother, "the student with some of its layers replaced"),
    ("ships", ShipsACopy, "does not learn along"),
    ("compiled", TellsCompilation, "compiled, kl differs"),
    ("processes", Relates, "declares batch"),
    ("processes", Drifts, "state"),
    ("processes", Raises, "no processes here"),
]


@pytest.mark.parametrize(("check", "cls", "message"), every(2, FAULTS))
def test_each_fault_is_found(check: str, cls: type[Method], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(check, cls)


def test_every_quick_check_finds_some_fault() -> None:
    assert {check for check, _, _ in FAULTS} == set(check_names())


@parametrize_with_checks(Sound)
def test_a_sound_method_passes(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
def test_samples_may_be_coupled_where_the_method_says_so() -> None:
    run("processes", RelatesGlobally)


@pytest.fixture
def few_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Leave only some of the checks, since most cost what the tests of reports do not need."""
    few = ["options", "fp64", "mixed-labels", "replay", "processes"]
    monkeypatch.setattr(kit, "CHECKS", [check for check in CHECKS if check.name in few])
    return few


def test_check_method_names_each_failed_check_with_its_cause(few_checks: list[str]) -> None:
    with pytest.raises(CheckError) as caught:
        check_method(Undocumented, "bare", expected_failures={"replay": "never fails"})
    text = str(caught.value)
    assert text.startswith(f"bare fails 2 of {len(few_checks)} checks:")
    assert "- options: bare.other: no help" in text
    assert "- replay: passes, though declared to fail (never fails)" in text


def test_a_declared_failure_is_no_failure(few_checks: list[str]) -> None:
    outcomes = {outcome.check: outcome for outcome in run_checks(Narrow, expected_failures={"fp64": "only fp32 yet"})}
    assert (outcomes["fp64"].result, outcomes["fp64"].reason) == ("expected", "only fp32 yet")
    assert {outcome.result for outcome in outcomes.values()} == {"expected", "pass"}


def test_a_check_that_does_not_concern_the_method_is_skipped_with_a_reason(few_checks: list[str]) -> None:
    class Local(Sound):
        """Another process cannot import it."""

        hard_labels = True

    outcomes = {outcome.check: outcome for outcome in run_checks(Local)}
    skipped = {name: outcome.reason for name, outcome in outcomes.items() if outcome.result == "skip"}
    assert set(skipped) == {"mixed-labels", "processes"}
    assert "top of a module" in skipped["processes"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"no check 'repaly'\. Did you mean 'replay'"):
        parametrize_with_checks(Sound, expected_failures={"repaly": "a slip"})
    with pytest.raises(InputError, match="names no method here: 'sond'"):
        parametrize_with_checks({"sound": Sound}, expected_failures={"sond:replay": "a slip"})
    with pytest.raises(InputError, match="no check 'all'"):
        parametrize_with_checks(Sound, checks=["all"])


def test_a_script_that_processes_import_again_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)  # as in such a process
    with pytest.raises(CheckError, match="__main__"):
        check_method(Sound)


def test_declared_failures_become_strict_xfails() -> None:
    mark = parametrize_with_checks(
        {"one": Sound, "two": Narrow}, expected_failures={"two:fp64": "only fp32 yet"}, checks=["fp64", "options"]
    )
    found = {parameter.id: list(parameter.marks) for parameter in mark.args[1]}
    assert list(found) == ["one-options", "two-options", "one-fp64", "two-fp64"]
    assert [id_ for id_, marks in found.items() if marks] == ["two-fp64"]
    (xfail,) = found["two-fp64"]
    assert xfail.kwargs == {"reason": "only fp32 yet", "strict": True}


def test_importing_the_kit_imports_no_timm() -> None:
    code = "import sys, kdtool.testing; print('timm' in sys.modules, 'pytest' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False False\n"
