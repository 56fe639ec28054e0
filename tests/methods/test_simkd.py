from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import kdtool
from kdtool.method import Own, Parts, Setup
from kdtool.testing.task_runs import _StoppedError, _Stopping
from kdtool_methods.simkd import SimKD, feature_loss
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import sentences


def literal(student, teacher):
    gaps = [(s - t) ** 2 for s, t in zip(student.flatten(), teacher.flatten(), strict=True)]
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 5), (1, 2, 1, 3)])
def test_it_is_the_paper_s_loss(shape):
    assert_agrees(feature_loss, literal, random(*shape), random(*shape, seed=1))


def test_limits():
    feat = random(2, 3, 4, 4)
    assert feature_loss(feat, feat) == 0
    assert feature_loss(feat.bfloat16(), feat.bfloat16()).dtype == torch.float32
    assert feature_loss((100 * feat).half(), -(100 * feat).half()).isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        feature_loss(feat, feat[:, :2])


class Student(nn.Module):
    def __init__(self, width=3, classes=5):
        super().__init__()
        self.body, self.fc = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, classes)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))


def built(student, last=(3, 4, 4), theirs=(6, 2, 2), pooled="body"):
    classifier = nn.Linear(6, 5).double()
    setup = Setup(
        {"last": last, "embedding": (3,)}, [{"last": theirs, "embedding": (6,)}], 5, 100, 4, None,
        Parts(Own(student.fc, False, "fc"), pooled={"last": pooled}),
        [Parts(Own(classifier, True, "head"), pooled={"last": pooled})],
    )  # fmt: skip
    return SimKD(SimKD.Config(weight=2.0), setup).double(), classifier


def test_what_ships_is_body_projector_and_the_teacher_s_classifier():
    student = Student().double()
    method, classifier = built(student)
    method.eval()
    batch = sentences({"last": (4, 3)}, {"last": (4, 6)})
    images, target = random(3, 1, 4, 4), random(3, 6, 2, 2, seed=1).detach()
    batch.student.mask, batch.student.taps, batch.teachers[0].taps = (
        None,
        {"last": student.body(images)},
        {"last": target},
    )
    projected = method.projector(nn.functional.adaptive_avg_pool2d(student.body(images), 2))
    torch.testing.assert_close(method.loss(batch)["feature"], 2 * literal(projected, target))
    classifier.bias.data += 1  # trained after the method was built
    shipped = method.ships(student).eval()
    torch.testing.assert_close(shipped(images), classifier(projected.mean((2, 3))))
    assert method.stages()[0].task_weight == 0


def test_embeddings_are_compared_where_maps_cannot_be():
    student = Student().double()
    method, classifier = built(student, pooled="")
    assert any("not maps" in remark for remark in method.remarks())
    images, embedding = random(3, 1, 4, 4), random(3, 6, seed=1).detach()
    batch = sentences({"last": (4, 3)}, {"last": (4, 6)})
    ours = student.body(images).mean((2, 3))
    batch.student.taps, batch.teachers[0].taps = {"embedding": ours}, {"embedding": embedding}
    torch.testing.assert_close(method.loss(batch)["feature"], 2 * literal(method.projector(ours), embedding))
    method.eval()
    torch.testing.assert_close(method.ships(student).eval()(images), classifier(method.projector(ours)))


@pytest.mark.slow
def test_a_run_resumes_and_is_measured_as_what_ships(tmp_path: Path):
    recipe = {
        "method": "simkd", "data.name": "digits", "data.labels_per_class": 20, "train.epochs": 2,
        "train.batch_size": 32, "train.log_every": 1, "checkpoint.every_steps": 1, "train.ema": 0.9,
        "teacher.model": "test_resnet", "teacher.weights": "scratch", "teacher.train.epochs": 2,
        "teacher.check": "off", "student.model": "resnet10t", "student.weights": "scratch",
    }  # fmt: skip
    whole = kdtool.run({**recipe, "out": str(tmp_path / "whole")})
    with pytest.raises(_StoppedError):
        kdtool.run({**recipe, "out": str(tmp_path / "stopped")}, reporter=_Stopping())
    kdtool.run(resume=tmp_path / "stopped")
    weights = [(tmp_path / each / "student" / "model.safetensors").read_bytes() for each in ("whole", "stopped")]
    assert weights[0] == weights[1]
    assert kdtool.evaluate(str(tmp_path / "whole"))["metrics"]["top1"] == whole.test["student"]["top1"]
    assert "net.fc = torch.nn.Linear(in_features=96" in whole.values["student"]["open_with"]
