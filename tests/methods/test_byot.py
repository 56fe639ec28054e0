from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool import Batch, Out, Setup
from kdtool.errors import InputError
from kdtool.losses import softened_kl
from kdtool_methods.byot import BYOT, Exit, exit_loss, exit_parts
from tests.methods.pairs import assert_agrees, random
from tests.running import CHEAP, STUDENT, call

T, ALPHA, BETA = 2.5, 0.4, 0.07


def literal(deepest_logits, deepest_feat, labels):
    def softened(logits):
        powers = [(value / T).exp() for value in logits]
        return [power / sum(powers) for power in powers]

    def loss(logits, feat):
        total = 0.0
        for b, label in enumerate(labels):
            cross_entropy = -(logits[b, label].exp() / sum(value.exp() for value in logits[b])).log()
            pairs = zip(softened(deepest_logits[b]), softened(logits[b]), strict=True)
            kl = sum(deepest * (deepest / shallow).log() for deepest, shallow in pairs)
            hint = sum((f - d) ** 2 for f, d in zip(feat[b].flatten(), deepest_feat[b].flatten(), strict=True))
            total = total + (1 - ALPHA) * cross_entropy + ALPHA * kl + BETA * hint
        return total / len(labels)

    return loss


@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1, 1]], ids=["a class missing", "batch of two"])
@pytest.mark.parametrize("shape", [(6,), (2, 2, 3)])
def test_it_is_the_paper_s_equation(labels, shape):
    batch = len(labels)
    deepest_logits, deepest_feat = random(batch, 5, seed=2), random(batch, *shape, seed=3)

    def fast(logits, feat):
        hard = F.cross_entropy(logits, torch.tensor(labels))
        return exit_loss(logits, feat, deepest_logits, deepest_feat, hard, temperature=T, alpha=ALPHA, beta=BETA)

    want = literal(deepest_logits.detach(), deepest_feat.detach(), labels)
    assert_agrees(fast, want, random(batch, 5), random(batch, *shape, seed=1))


def test_the_deepest_classifier_is_a_constant():
    inputs = random(3, 4), random(3, 6, seed=1), random(3, 4, seed=2), random(3, 6, seed=3)
    gradients = torch.autograd.grad(exit_loss(*inputs), inputs, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [True, True, False, False]


def test_limits():
    logits, feat = random(3, 4), random(3, 6, seed=1)
    assert exit_loss(logits, feat, logits, feat).item() == 0
    flat = torch.ones(2, 5)
    assert exit_loss(torch.zeros(2, 3), flat, torch.full((2, 3), 4.0), 3 * flat).item() == pytest.approx(0.03 * 20)
    huge = exit_loss(torch.tensor([[1e4, 0.0]]), flat[:1], torch.tensor([[0.0, 1e4]]), flat[:1])
    assert huge.item() == pytest.approx(0.3 * 1e4 / 3)
    half = exit_loss(*(t.bfloat16() for t in (logits, feat, random(3, 4, seed=2), random(3, 6, seed=3))))
    assert half.dtype == torch.float32
    assert half >= 0
    with pytest.raises(ValueError, match="differ in size"):
        exit_loss(logits, feat, logits, random(3, 7))


def test_the_divergence_has_no_factor_of_the_temperature():
    inputs = random(3, 4), random(3, 6), random(3, 4, seed=2), random(3, 6)
    kl, _ = exit_parts(*inputs, temperature=4.0)
    torch.testing.assert_close(16 * kl, softened_kl(inputs[0], inputs[2], 4.0))


@pytest.mark.parametrize(
    ("shape", "last", "blocks"),
    [((8, 16, 16), (32, 2, 2), 3), ((8, 7, 5), (32, 2, 3), 2), ((12, 4, 4), (12, 4, 4), 1), ((9, 12), (9, 12), 1),
     ((32, 2, 2), (16, 4, 4), 1), ((8, 4, 4), (32, 1, 1), 2)],
)  # fmt: skip
def test_an_exit_brings_any_feature_to_the_deepest_embedding(shape, last, blocks):
    leave = Exit(shape, last, 24, 5)
    logits, embedding = leave(random(3, *shape).float())
    assert logits.shape == (3, 5)
    assert embedding.shape == (3, 24)
    assert sum(isinstance(layer, torch.nn.Sequential) for layer in leave.layers) == blocks
    assert (embedding < 0).any()


def build(labels=(0, 3, -1, 2), **options):
    setup = Setup({"exits": [(4, 8, 8), (6, 4, 4)], "last": (8, 2, 2), "deepest": (10,)}, [], 5, 20, 4)
    labels = torch.tensor(labels)
    taps = {
        "exits": [random(4, 4, 8, 8, seed=1), random(4, 6, 4, 4, seed=2)],
        "last": random(4, 8, 2, 2, seed=3),
        "deepest": random(4, 10, seed=4),
    }
    task_loss = lambda logits: F.cross_entropy(logits, labels, ignore_index=-1)  # noqa: E731
    torch.manual_seed(0)
    method = BYOT(BYOT.Config(**options), setup).double()
    return method, Batch(labels, torch.arange(4), Out(random(4, 5), taps), [], task_loss)


def test_terms_are_sums_over_exits_of_the_parts():
    method, batch = build(temperature=T, alpha=ALPHA, beta=BETA)
    terms = method.loss(batch)
    assert list(terms) == ["labels", "kl", "hint"]
    want = 0
    for leave, feat in zip(method.exits, batch.student.taps["exits"], strict=True):
        logits, embedding = leave(feat)
        want = want + exit_loss(
            logits, embedding, batch.student.logits, batch.student.taps["deepest"], batch.task_loss(logits),
            temperature=T, alpha=ALPHA, beta=BETA,
        )  # fmt: skip
    torch.testing.assert_close(sum(terms.values()), want)


def test_exits_and_shallow_layers_learn_and_the_deepest_does_not():
    method, batch = build()
    taps = batch.student.taps
    leaves = {"logits": batch.student.logits, "last": taps["last"], "deepest": taps["deepest"]}
    leaves |= {"exit 0": taps["exits"][0], "exit 1": taps["exits"][1], **dict(method.named_parameters())}
    found = torch.autograd.grad(sum(method.loss(batch).values()), list(leaves.values()), allow_unused=True)
    assert {n for n, g in zip(leaves, found, strict=True) if g is None} == {"logits", "last", "deepest"}
    (stage,) = method.stages()
    assert (stage.name, stage.trains, stage.task_weight) == ("distill", ("student", "method"), 1.0)
    assert BYOT.scheme() == "self"


def test_the_hint_s_weight_does_not_grow_with_the_embedding():
    (method, batch), (given, _) = build(), build(beta=0.5)
    assert method.beta == pytest.approx(0.03 / 10)
    torch.testing.assert_close(given.loss(batch)["hint"] * method.beta, 0.5 * method.loss(batch)["hint"])


def test_its_taps_follow_the_options():
    assert BYOT.taps(BYOT.Config()).student == {"exits": [0.25, 0.5, 0.75], "last": 1.0, "deepest": "embedding"}
    assert BYOT.taps(BYOT.Config(student_layers=["layer1"])).student["exits"] == ["layer1"]
    assert BYOT.taps(BYOT.Config()).teacher == {}
    with pytest.raises(InputError, match="byot"):
        BYOT.taps(BYOT.Config(layers=[]))


def test_its_state_makes_a_round_trip():
    (first, batch), (second, _) = build(), build()
    first.loss(batch)  # moves the running statistics
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    assert all(torch.equal(a, b) for a, b in zip(first.loss(batch).values(), second.loss(batch).values(), strict=True))


def test_training_brings_exits_to_the_deepest_classifier():
    method, batch = build(labels=(-1, -1, -1, -1), alpha=1.0, beta=0.1)
    batch.task_loss = lambda logits: 0.0 * logits.sum()
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    before = sum(method.loss(batch).values()).item()
    for _ in range(60):
        optimizer.zero_grad()
        sum(method.loss(batch).values()).backward()
        optimizer.step()
    assert sum(method.loss(batch).values()).item() < before / 5


def test_exits_and_their_ensemble_are_predictions():
    method, batch = build()
    found = method.predictions(batch.student)
    exits = [leave(feat)[0] for leave, feat in zip(method.exits, batch.student.taps["exits"], strict=True)]
    assert list(found) == ["exit 1", "exit 2", "ensemble"]
    torch.testing.assert_close(found["exit 2"], exits[1])
    torch.testing.assert_close(found["ensemble"], (exits[0] + exits[1] + batch.student.logits) / 3)


def test_a_run_measures_them_on_both_splits(tmp_path):
    folder = tmp_path / "run"
    cheap = [each for each in CHEAP if not each.startswith("teacher")]
    run = ["run", "--student", STUDENT, *cheap, "--method", "byot+tfkd", "byot.layers=[0.5]", "--epochs", "2"]
    done = call(*run, "--batch-size", "40", "--out", folder, folder=folder)
    assert done.code == 0, done.err
    names = ["byot.exit 1", "byot.ensemble"]
    assert all(list(record["predictions"]) == names for record in done.log())
    measured = done.result["test"]["predictions"]
    assert list(measured) == names
    assert set(measured["byot.ensemble"]) == set(done.result["test"]["student"])
    assert "byot.ensemble" in done.out
