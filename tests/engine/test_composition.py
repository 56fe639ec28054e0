"""Methods joined by +: early stages in order, one joint last stage, hard labels once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdtool import Batch, Method, Out, Setup, Stage, Taps
from kdtool.engine.composition import build_method, combined_taps
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from kdtool_methods.fitnets import FitNets
from kdtool_methods.kd import KD
from tests.engine import tiny

CLASSES: dict[str, type[Method]] = {"fitnets": FitNets, "kd": KD}
OPTIONS = {"fitnets": FitNets.Config(), "kd": KD.Config(alpha=0.4)}


def _setup(taps: Taps) -> Setup:
    shapes = [dict.fromkeys(side, (4, 8, 8)) for side in (taps.student, taps.teacher)]
    return Setup(student=shapes[0], teachers=[shapes[1]], num_classes=3, num_samples=48, batch_size=8)


def _combined() -> Method:
    method = build_method(CLASSES, OPTIONS, _setup(combined_taps(CLASSES, OPTIONS)))
    assert method is not None
    return method


def test_roles_of_the_parts_never_meet() -> None:
    taps = combined_taps(
        {"a": FitNets, "b": FitNets}, {"a": FitNets.Config(guided=0.2), "b": FitNets.Config(guided=0.8)}
    )
    assert sorted(taps.student.values()) == [0.2, 0.8]
    assert len(taps.teacher) == 2


def test_a_single_method_is_itself_and_none_is_none() -> None:
    assert isinstance(build_method({"kd": KD}, OPTIONS, _setup(Taps())), KD)
    assert build_method({}, {}, _setup(Taps())) is None


def test_stages_and_hard_label_weight() -> None:
    early, joint = _combined().stages()
    assert (early.name, early.task_weight) == ("fitnets.hint", 0.0)
    assert joint.name == "distill"
    assert joint.task_weight == pytest.approx(0.6)  # 1 of FitNets times 1 - alpha of KD
    assert set(joint.trains) == {"student", "method"}


def test_the_joint_stage_sums_the_parts() -> None:
    method = _combined()
    student, teacher = torch.randn(2, 8, 3, dtype=torch.float64)
    labels = torch.zeros(8, dtype=torch.int64)
    batch = Batch(labels, labels, Out(student), [Out(teacher)], lambda x: x.mean(), progress=0.5)
    terms = method.stages()[-1].loss(batch)
    setups = {"fitnets": _setup(FitNets.taps(OPTIONS["fitnets"])), "kd": _setup(Taps())}
    alone = {name: CLASSES[name](OPTIONS[name], setup).stages()[-1].loss(batch)["kl"] for name, setup in setups.items()}
    assert {name: term.item() for name, term in terms.items()} == {
        f"{name}.kl": value.item() for name, value in alone.items()
    }


def test_after_step_reaches_only_the_parts_whose_stage_runs() -> None:
    calls: list[str] = []

    class Staged(Method):
        api = 1

        def loss(self, batch: Batch) -> dict[str, Tensor]:
            return {"mean": batch.student.logits.mean()}

        def stages(self) -> list[Stage]:
            return [Stage("early", self.loss, epochs=1), Stage("late", self.loss)]

        def after_step(self, batch: Batch) -> None:
            calls.append("staged")

    class Plain(Staged):
        def stages(self) -> list[Stage]:
            return [Stage("late", self.loss)]

        def after_step(self, batch: Batch) -> None:
            calls.append("plain")

    method = build_method({"s": Staged, "p": Plain}, {"s": None, "p": None}, _setup(Taps()))
    assert method is not None
    labels = torch.zeros(2, dtype=torch.int64)
    batch = Batch(labels, labels, Out(torch.randn(2, 3)), [], lambda x: x.mean())
    for stage in method.stages():
        stage.loss(batch)
        method.after_step(batch)
    assert calls == ["staged", "staged", "plain"]


def test_a_joined_run_trains(tmp_path: Path) -> None:
    class Tapped(tiny.Net):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
            logits, taps = super().forward(x)
            return logits, {"fitnets/guided": taps["middle"], "fitnets/hint": taps["middle"]}

    job = tiny.job(tmp_path, _combined(), student=Tapped(), teachers=[Tapped(seed=5)])
    fitted = fit(job, Reporter(), StopRequest())
    assert fitted.steps == 24
