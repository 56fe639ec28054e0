"""minillm's policy gradient against literal float64 readings of the paper, and the gradient that it estimates."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from kdtool.errors import InputError
from kdtool.method import Drawn
from kdtool_methods.minillm import MiniLLM, importance_weights, long_part, returns, reverse_kl, single_step
from tests.methods.pairs import assert_agrees, batch_of, random, setup_of

LENGTHS = [[1], [4], [3, 1, 2], [1, 5, 1]]


def literal_returns(rewards, lengths, length_norm, discount):
    found, start = [], 0
    for length in lengths:
        for t in range(length):
            total = 0.0
            for later in range(t + 1, length):
                total += discount ** (later - t - 1) * float(rewards[start + later])
            found.append(total / (length - t - 1) if length_norm and t + 1 < length else total)
        start += length
    return found


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("length_norm", [True, False])
@pytest.mark.parametrize("discount", [1.0, 0.95, 0.0])
def test_a_return_is_what_follows_in_the_same_answer(lengths, length_norm, discount):
    rewards = random(sum(lengths))
    found = returns(rewards, lengths, length_norm, discount)
    assert not found.requires_grad
    torch.testing.assert_close(
        found, torch.tensor(literal_returns(rewards, lengths, length_norm, discount), dtype=torch.float64), rtol=1e-9,
        atol=1e-9,
    )  # fmt: skip


def softened(row):
    powers = [z.exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher, classes, lengths, alpha, clip, length_norm):
    """Return a scalar with the gradient of Eq. 7, and PPO's clipping, one row and one class at a time."""
    q, p = [softened(row) for row in student], [softened(row) for row in teacher]
    rewards = [math.log(float(p[i][y]) / float(q[i][y])) for i, y in enumerate(classes)]
    credit = literal_returns(rewards, lengths, length_norm, 1.0)
    total = 0.0
    for i, y in enumerate(classes):
        w = float(q[i][y]) / (alpha * float(p[i][y]) + (1 - alpha) * float(q[i][y]))
        single = sum(a * (a.log() - b.log()) for a, b in zip(q[i], p[i], strict=True))
        ratio = w * q[i][y] / float(q[i][y])
        gained = ratio * credit[i]
        if clip:
            held = min(max(float(ratio), 1 - clip), 1 + clip) * credit[i]
            inside = 1 - clip <= float(ratio) <= 1 + clip
            gained = gained if inside or float(gained) < held else torch.tensor(held, dtype=torch.float64)
        total = total + w * single - gained
    return total / len(classes)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("alpha", "clip", "length_norm"), [(0.2, 0.2, True), (0.0, 0.2, True), (0.7, 0.0, False)])
def test_the_policy_gradient_is_that_of_the_paper(lengths, alpha, clip, length_norm):
    count = sum(lengths)
    student, teacher = random(count, 4), random(count, 4, seed=1).detach()
    classes = (torch.arange(count) * 3 + 1) % 4
    setup = setup_of([], [[]], num_classes=4)
    config = MiniLLM.Config(
        objective="policy_gradient", teacher_mixed_alpha=alpha, clip=clip, length_norm=length_norm, weight=2.0
    )
    method = MiniLLM(config, setup)

    def fast(logits):
        at = classes[:, None]
        q, p = (each.detach().log_softmax(1).gather(1, at).squeeze(1) for each in (logits, teacher))
        drawn = torch.log((1 - alpha) * q.exp() + alpha * p.exp())
        batch = batch_of(setup, count)
        batch.student.logits, batch.teachers[0].logits = logits, teacher
        batch.drawn = {"class": classes, **method.credit(Drawn(classes, lengths, q, [p], drawn))}
        return sum(method.loss(batch).values()) / 2

    assert_agrees(
        fast, lambda logits: literal(logits, teacher, classes.tolist(), lengths, alpha, clip, length_norm), student
    )


def test_its_mean_over_all_answers_is_the_gradient_of_the_divergence_of_answers():
    classes, length = 3, 3
    count = sum(classes**t for t in range(length))  # a row of logits for every beginning of an answer
    student, teacher = random(count, classes), random(count, classes, seed=1).detach()
    rows = {}
    for t in range(length):
        rows |= {each: len(rows) + i for i, each in enumerate(product(range(classes), repeat=t))}
    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    exact, estimate = 0.0, torch.zeros_like(student)
    for answer in product(range(classes), repeat=length):
        at, drawn = [rows[answer[:t]] for t in range(length)], torch.tensor(answer)
        q, p = log_q[at, drawn], log_p[at, drawn]
        exact = exact + q.sum().exp() * (q.sum() - p.sum())
        credit = returns(p - q, [length], length_norm=False)
        weights = importance_weights(q, q)
        loss = single_step(student[at], teacher[at], weights) + long_part(student[at], drawn, credit, weights)
        (gradient,) = torch.autograd.grad(length * loss, student)  # of the sum over tokens
        estimate += float(q.sum().exp()) * gradient
    (wanted,) = torch.autograd.grad(exact, student)
    torch.testing.assert_close(estimate, wanted, rtol=1e-9, atol=1e-12)


def test_weights_are_bounded_by_the_students_share():
    q, p = torch.tensor([1e-9, 0.5, 1.0]).double(), torch.tensor([1.0, 0.5, 0.0]).double()
    weights = importance_weights(q.log(), (0.2 * p + 0.8 * q).log())
    torch.testing.assert_close(weights, torch.tensor([5e-9, 1.0, 1.25]).double(), rtol=1e-6, atol=0)


def test_rows_that_nobody_drew_teach_nothing_and_given_text_by_its_rows_alone():
    setup = setup_of([], [[], []])
    method = MiniLLM(MiniLLM.Config(objective="policy_gradient"), setup)
    batch = batch_of(setup)
    given = method.loss(batch)
    assert given["long"] == 0
    assert given["single"] > 0
    values = -torch.ones(4).double()
    classes = torch.tensor([-1, -1, 2, 0])
    found = method.credit(Drawn(classes, [2, 2], values, [2 * values, 3 * values], values))
    assert found["weight"].tolist() == [0, 0, 1, 1]
    mean = math.log((math.exp(-2) + math.exp(-3)) / 2) + 1
    assert found["return"][2].item() == pytest.approx(mean)
    batch.drawn = {"class": classes, **found}
    gradient = torch.autograd.grad(sum(method.loss(batch).values()), batch.student.logits)[0]
    assert gradient[:2].abs().sum() == 0
    assert (gradient[2:].abs().sum(1) > 0).all()


def test_a_reward_is_clipped():
    method = MiniLLM(MiniLLM.Config(objective="policy_gradient", reward_clip=0.5), setup_of([], [[]]))
    far = torch.tensor([-1.0, -9.0])
    assert method.credit(Drawn(torch.tensor([0, 1]), [2], torch.zeros(2), [far], far))["return"].tolist() == [-0.5, 0.0]


def test_softened_answers_are_refused():
    with pytest.raises(InputError, match="leave it at 1"):
        MiniLLM(MiniLLM.Config(objective="policy_gradient", temperature=2.0), setup_of([], [[]]))


def test_the_first_step_alone_is_todays_loss():
    student, teacher = random(4, 5), random(4, 5, seed=1)
    torch.testing.assert_close(single_step(student, teacher, torch.ones(4).double()), reverse_kl(student, teacher))
