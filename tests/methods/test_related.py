"""Layers that relations are compared of: the embedding, or those that the user names, for each method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Out, Setup
from kdtool.errors import InputError
from kdtool.method import Shape
from kdtool_methods._related import entries, related
from kdtool_methods.cckd import CCKD, correlation_loss
from kdtool_methods.crd import CRD
from kdtool_methods.pkt import PKT, probability_loss
from kdtool_methods.rkd import RKD, angle_loss, distance_loss
from tests.methods.pairs import random

METHODS: dict[str, type[Method]] = {"rkd": RKD, "pkt": PKT, "cckd": CCKD, "crd": CRD}
STUDENT: list[Shape] = [(3, 4, 4), (5, 2, 2)]
TEACHERS: list[list[Shape]] = [[(2, 4, 4), (6, 3, 3)], [(4, 2, 2), (7, 2, 2)]]


def build(cls: type[Method], **options: Any) -> tuple[Method, Batch]:
    """Return a method on two layers and two teachers, and a batch of six."""
    setup = Setup({"embedding": STUDENT}, [{"embedding": each} for each in TEACHERS], 3, 30, 6, torch.arange(30) % 3)
    student = Out(random(6, 3), {"embedding": [random(6, *shape, seed=n) for n, shape in enumerate(STUDENT)]})
    outs = [
        Out(
            random(6, 3).detach(), {"embedding": [random(6, *s, seed=9 * t + n).detach() for n, s in enumerate(shapes)]}
        )
        for t, shapes in enumerate(TEACHERS, 1)
    ]
    labels = torch.arange(6) % 3
    batch = Batch(labels, torch.arange(6), student, outs, lambda logits: F.cross_entropy(logits, labels))
    torch.manual_seed(0)
    return cls(cls.Config(layers=[0.5, 1.0], **options), setup).double(), batch


@pytest.mark.parametrize("name", METHODS)
def test_the_embedding_is_tapped_unless_layers_are_chosen(name: str) -> None:
    cls = METHODS[name]
    assert cls.taps(cls.Config()).student == cls.taps(cls.Config()).teacher == {"embedding": "embedding"}
    chosen = cls.taps(cls.Config(layers=[0.5, 1.0], teacher_layers=["a", "b"]))
    assert (chosen.student, chosen.teacher) == ({"embedding": [0.5, 1.0]}, {"embedding": ["a", "b"]})
    with pytest.raises(InputError, match=rf"give {name}.student_layers"):
        cls.taps(cls.Config(layers=[0.5, 1.0], teacher_layers=["a"]))


def test_losses_are_sums_over_layers_and_teachers() -> None:
    def summed(loss: Any, batch: Batch) -> Tensor:
        found: Tensor = sum(loss(s.flatten(1), t.flatten(1)) for s, t in related(batch))
        assert len(related(batch)) == 4
        return found

    method, batch = build(RKD)
    terms = method.loss(batch)
    torch.testing.assert_close(terms["distance"], 25 * summed(distance_loss, batch))
    torch.testing.assert_close(terms["angle"], 50 * summed(angle_loss, batch))
    method, batch = build(PKT, weight=2.0)
    torch.testing.assert_close(method.loss(batch)["divergence"], 2 * summed(probability_loss, batch))
    method, batch = build(CCKD, weight=2.0)
    torch.testing.assert_close(method.loss(batch)["correlation"], 2 * summed(correlation_loss, batch))


def test_crd_has_banks_for_every_layer_and_teacher() -> None:
    method, batch = build(CRD, negatives=4, weight=2.0, dim=8)
    contrasts: Any = method.contrasts
    assert [each.embed[0].in_features for each in contrasts] == [3, 5, 3, 5]
    assert [each.embed[1].in_features for each in contrasts] == [2, 6, 4, 7]
    draw: Any = method.draw
    index = torch.cat([batch.index[:, None], draw(batch.index, batch.epoch, 4)], dim=1)
    want = sum(each(s, t, index) for each, (s, t) in zip(contrasts, related(batch), strict=True))
    torch.testing.assert_close(method.loss(batch)["contrast"], 2 * want)
    before = [each.banks.clone() for each in contrasts]
    method.after_step(batch)
    for each, old in zip(contrasts, before, strict=True):
        moved = (each.banks != old).any(2).any(0)
        assert moved.tolist() == [row < 6 for row in range(30)]


def test_a_padded_sequence_counts_as_its_mean() -> None:
    feat = random(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    student = Out(random(2, 3), {"embedding": feat}, mask)
    teacher = Out(random(2, 3), {"embedding": feat})
    labels = torch.zeros(2, dtype=torch.int64)
    ((ours, theirs),) = related(Batch(labels, labels, student, [teacher], lambda x: x.mean()))
    torch.testing.assert_close(ours, torch.stack([feat[0, :2].mean(0), feat[1, 0]]))
    assert torch.equal(ours, theirs)
    assert [entries(shape) for shape in ((4,), (3, 4), (2, 3, 4))] == [4, 4, 24]


def test_relaxed_positives_are_of_the_samples_class_and_drawn_anew() -> None:
    method, batch = build(CRD, negatives=4, positives="relaxed")
    alike: Any = method.alike
    index = torch.arange(30)
    draws = torch.stack([alike.same(index, epoch) for epoch in range(40)])
    assert (draws % 3 == index % 3).all()
    assert torch.equal(draws[7], alike.same(index, 7))
    assert torch.equal(draws[7][4:9], alike.same(index[4:9], 7))  # a function of epoch and sample
    assert all(len(set(draws[:, sample].tolist())) > 5 for sample in range(30))
    draw: Any = method.draw
    positions = torch.cat([alike.same(batch.index, 0)[:, None], draw(batch.index, 0, 4)], dim=1)
    contrasts: Any = method.contrasts
    want = sum(each(s, t, positions) for each, (s, t) in zip(contrasts, related(batch), strict=True))
    torch.testing.assert_close(method.loss(batch)["contrast"], 0.8 * want)
    exact: Any = build(CRD, negatives=4)[0]
    assert exact.alike is None


def test_a_sample_without_a_known_class_is_its_own_positive() -> None:
    labels = torch.tensor([0, 1, -1, 0, 1, -1])
    setup = Setup({"embedding": (3,)}, [{"embedding": (3,)}], 2, 6, 2, labels)
    method: Any = CRD(CRD.Config(positives="relaxed", negatives=2), setup)
    for epoch in range(20):
        found = method.alike.same(torch.arange(6), epoch)
        assert found[[2, 5]].tolist() == [2, 5]
        assert torch.equal(labels[found], labels)
