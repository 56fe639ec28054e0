from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
import torch.nn.functional as F

from kdtool import Setup
from kdtool.losses import softened_kl
from kdtool.tasks.images.models.build import build
from kdtool_methods.deit import DeiT, decision_loss
from tests.methods.pairs import assert_agrees, batch_of, random, setup_of
from tests.running import CHEAP, TEACHER, call


def literal(student, teacher):
    loss = 0.0
    for s, t in zip(student, teacher, strict=True):
        decided = max(range(len(t)), key=lambda k: t[k].item())
        loss = loss - (s[decided] - sum(x.exp() for x in s).log()) + 0 * t.sum()
    return loss / len(student)


@pytest.mark.parametrize("shape", [(4, 5), (1, 2)])
def test_it_is_the_paper_s_loss(shape):
    assert_agrees(lambda s, t: decision_loss(s, t) + 0 * t.sum(), literal, random(*shape), random(*shape, seed=1))


def test_limits():
    logits = random(3, 4)
    assert decision_loss(1e4 * logits, logits) == 0
    assert decision_loss(logits.bfloat16(), logits).dtype == torch.float32
    assert decision_loss((1000 * logits).half(), -logits).isfinite()


def built(heads, **options):
    setup = setup_of([], [[], []])
    batch = batch_of(setup)
    batch.student = dataclasses.replace(batch.student, taps={"heads": random(4, heads, 5, seed=9)})
    return DeiT(DeiT.Config(**options), Setup({"heads": (heads, 5)}, setup.teachers, 5, 100, 4)), batch


@pytest.mark.parametrize(("labels", "alpha"), [("hard", 0.5), ("soft", 0.1)])
def test_each_token_learns_from_its_own(labels, alpha):
    method, batch = built(2, labels=labels)
    terms, heads = method.loss(batch), batch.student.taps["heads"]
    teacher = (batch.teachers[0].logits / 3).softmax(1) / 2 + (batch.teachers[1].logits / 3).softmax(1) / 2
    want = {
        "hard": F.cross_entropy(heads[:, 1], teacher.argmax(1)),
        "soft": softened_kl(heads[:, 1], 3 * teacher.log(), 3.0),
    }
    torch.testing.assert_close(terms["teacher"], alpha * want[labels])
    torch.testing.assert_close(terms["labels"], (1 - alpha) * batch.task_loss(heads[:, 0]))
    assert method.stages()[0].task_weight == 0
    assert method.remarks() == []


def test_without_a_token_the_classifier_learns_both_and_it_is_said():
    method, batch = built(1, labels="soft", alpha=0.25)
    assert list(method.loss(batch)) == ["teacher"]
    assert method.stages()[0].task_weight == 0.75
    assert "no distillation token" in method.remarks()[0]


def test_a_distilled_network_has_two_heads_whose_mean_is_its_answer():
    network = build("deit_tiny_distilled_patch16_224", "scratch", 5, 32).tapped({"heads": "heads"})
    logits, taps = network.eval()(torch.ones(2, 3, 32, 32))
    assert taps["heads"].shape == (2, 2, 5)
    torch.testing.assert_close(taps["heads"].mean(1), logits)
    torch.testing.assert_close(taps["heads"][:, 0], network.module.head(network.module.forward_features(
        torch.ones(2, 3, 32, 32))[:, 0]))  # fmt: skip
    one = build("test_resnet", "scratch", 5, 32).tapped({"heads": "heads"}).eval()
    logits, taps = one(torch.ones(2, 3, 32, 32))
    assert torch.equal(taps["heads"][:, 0], logits)


def test_a_run_trains_both_tokens_and_ships_their_mean(tmp_path):
    folder = tmp_path / "run"
    student = "deit_tiny_distilled_patch16_224"
    pair = ["--teacher", TEACHER, "--student", student, "student.model_args.depth=1"]
    run = ["run", *pair, *CHEAP, "--method", "deit", "--epochs", "1", "--batch-size", "40", "data.val_fraction=0"]
    done = call(*run, "--out", folder, folder=folder)
    assert done.code == 0, done.err
    assert set(done.log()[-1]["train"]) == {"labels", "teacher", "total"}  # no hard labels of the mean
    shipped = timm.create_model(f"local-dir:{folder / 'student'}", pretrained=True).eval()
    first = build(student, "scratch", 10, 16, {"depth": 1}, seed=0).module
    moved = {name for name, tensor in shipped.state_dict().items() if not torch.equal(tensor, first.state_dict()[name])}
    assert {"cls_token", "dist_token", "head.weight", "head_dist.weight"} <= moved
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = shipped.forward_features(images)
        want = (shipped.head(tokens[:, 0]) + shipped.head_dist(tokens[:, 1])) / 2
        torch.testing.assert_close(shipped(images), want)
