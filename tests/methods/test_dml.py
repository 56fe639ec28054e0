from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool import Batch, Out
from kdtool_methods.dml import DML, peer_loss
from tests.methods.pairs import assert_agrees, random, setup_of


def literal(temperature, peer):
    def loss(student):
        total = 0.0
        for s, p in zip(student, peer, strict=True):
            s_powers, p_powers = [(v / temperature).exp() for v in s], [(v / temperature).exp() for v in p]
            for a, b in zip(s_powers, p_powers, strict=True):
                q_s, q_p = a / sum(s_powers), b / sum(p_powers)
                total = total + q_p * (q_p / q_s).log()
        return temperature**2 * total / len(student)

    return loss


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(4, 5), (2, 2), (1, 3)])
def test_it_is_the_paper_s_equation(shape, temperature):
    peer = random(*shape, seed=1)
    assert_agrees(lambda s: peer_loss(s, peer, temperature), literal(temperature, peer.detach()), random(*shape))


def test_the_peer_is_a_constant():
    student, peer = random(3, 4), random(3, 4, seed=1)
    assert torch.autograd.grad(peer_loss(student, peer), [student, peer], allow_unused=True)[1] is None


def test_limits():
    student = random(3, 4)
    assert peer_loss(student, student).item() == 0
    assert peer_loss(torch.zeros(2, 3), torch.full((2, 3), 7.0)).item() == 0
    far = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert peer_loss(*far).item() == pytest.approx(2e4)
    half = peer_loss(student.bfloat16(), random(3, 4, seed=1).bfloat16())
    assert half.dtype == torch.float32
    assert half >= 0


def build(peers, labels=(0, 3, -1, 2), **options):
    setup = setup_of([], [[]] * peers)
    labels = torch.tensor(labels)
    outs = [Out(random(len(labels), 5, seed=i)) for i in range(peers + 1)]
    task_loss = lambda logits: F.cross_entropy(logits, labels, ignore_index=-1)  # noqa: E731
    return DML(DML.Config(**options), setup), Batch(labels, torch.arange(4), outs[0], outs[1:], task_loss)


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_each_network_has_its_own_loss_of_labels_and_the_others_mean(peers):
    method, batch = build(peers, weight=0.5, temperature=2.0)
    logits = [batch.student.logits, *(out.logits for out in batch.teachers)]
    terms = method.loss(batch)
    assert set(terms) == {"kl"} | {f"peer{i}.{part}" for i in range(peers) for part in ("task", "kl")}
    for network, own in enumerate(logits):
        want = sum(peer_loss(own, other, 2.0) for i, other in enumerate(logits) if i != network) / peers * 0.5
        torch.testing.assert_close(terms["kl" if network == 0 else f"peer{network - 1}.kl"], want)
        if network:
            torch.testing.assert_close(terms[f"peer{network - 1}.task"], batch.task_loss(own))


def test_no_network_learns_from_another_s_terms():
    method, batch = build(2)
    logits = [batch.student.logits, *(out.logits for out in batch.teachers)]
    owner = {"kl": 0, "peer0.task": 1, "peer0.kl": 1, "peer1.task": 2, "peer1.kl": 2}
    for name, term in method.loss(batch).items():
        gradients = torch.autograd.grad(term, logits, allow_unused=True, retain_graph=True)
        assert [i for i, gradient in enumerate(gradients) if gradient is not None] == [owner[name]]


def test_it_declares_what_it_is():
    method, _ = build(1)
    assert DML.scheme() == "online"
    (stage,) = method.stages()
    assert stage.task_weight == 1.0
    assert not list(method.parameters())


def test_mixed_labels_reach_the_peers():
    method, batch = build(1)
    mixed = torch.full((4, 5), 0.2, dtype=torch.float64)
    batch.labels, batch.task_loss = mixed, lambda logits: F.cross_entropy(logits, mixed)
    assert method.loss(batch)["peer0.task"].isfinite()


def test_peers_that_learn_from_each_other_come_together():
    torch.manual_seed(0)
    method, batch = build(2, labels=(0, 1, 2, 3))
    networks = [out.logits for out in (batch.student, *batch.teachers)]
    optimizer = torch.optim.Adam(networks, lr=0.1)

    def apart():
        return sum(peer_loss(a, b).item() for a in networks for b in networks)

    before = apart()
    for _ in range(50):
        optimizer.zero_grad()
        (sum(method.loss(batch).values()) + batch.task_loss(batch.student.logits)).backward()
        optimizer.step()
    assert apart() < before / 5
    assert all(logits.argmax(1).tolist() == [0, 1, 2, 3] for logits in networks)


def test_turns_share_the_terms_out_and_reach_one_network_each():
    method, batch = build(2, updates="alternating")
    (stage,) = method.stages()
    logits = [*(out.logits for out in batch.teachers), batch.student.logits]
    terms = {}
    for number, turn in enumerate(stage.turns):
        found = turn(batch)
        grads = torch.autograd.grad(sum(found.values()), logits, allow_unused=True)
        assert [grad is not None for grad in grads] == [number == each for each in range(3)]
        terms |= found
    joint = stage.loss(batch)
    assert terms.keys() == joint.keys()
    for name, term in joint.items():
        torch.testing.assert_close(terms[name], term)
    assert build(2)[0].stages()[0].turns == ()
