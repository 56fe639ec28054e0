"""Methods joined by +: early stages in order, one joint last stage, hard labels once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdtool import Batch, Method, Out, Setup, Stage, Taps
from kdtool.engine.composition import build_method, combined_taps, composed
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from kdtool.losses import softened_kl
from kdtool_methods.crd import CRD
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


def test_it_says_what_it_makes_of_the_hard_labels_weights() -> None:
    method = _combined()
    assert composed(method, 0.6) == [
        "fitnets+kd: the hard labels weigh 1 (fitnets) x 0.6 (kd) = 0.6, and each method's terms what it says itself; "
        "train.task_weight sets another weight of the hard labels"
    ]
    assert "weigh 1 by train.task_weight, instead of 1 (fitnets) x 0.6 (kd) = 0.6" in composed(method, 1.0)[0]
    assert composed(KD(OPTIONS["kd"], _setup(Taps())), 0.6) == composed(None, 1.0) == []


def test_the_published_weights_of_crd_and_kd_can_be_given() -> None:
    """1 of the hard labels, 1 of the softened ones, 0.8 of the contrast (Tian et al., ICLR 2020)."""
    classes = {"crd": CRD, "kd": KD}
    options = {"crd": CRD.Config(negatives=4), "kd": KD.Config(alpha=1.0, hard_weight=1.0)}
    setup = Setup({"crd/embedding": (4,)}, [{"crd/embedding": (4,)}], num_classes=3, num_samples=48, batch_size=8)
    method = build_method(classes, options, setup)
    assert method is not None
    (joint,) = method.stages()
    assert joint.task_weight == 1.0
    labels = torch.arange(8) % 3
    outs = [Out(torch.randn(8, 3), {"crd/embedding": torch.randn(8, 4)}) for _ in range(2)]
    batch = Batch(labels, labels, outs[0], [outs[1]], lambda x: x.mean())
    terms = joint.loss(batch)
    torch.testing.assert_close(terms["kd.kl"], softened_kl(outs[0].logits, outs[1].logits, 4.0))
    plain = CRD(CRD.Config(negatives=4, weight=1.0), Setup({"embedding": (4,)}, [{"embedding": (4,)}], 3, 48, 8))
    plain.load_state_dict(method.parts["crd"].state_dict())  # type: ignore[union-attr, operator]
    own = Batch(labels, labels, *(_alone(out) for out in outs[:1]), [_alone(outs[1])], lambda x: x.mean())
    torch.testing.assert_close(terms["crd.contrast"], 0.8 * plain.loss(own)["contrast"])


def _alone(out: Out) -> Out:
    return Out(out.logits, {"embedding": out.taps["crd/embedding"]})


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
