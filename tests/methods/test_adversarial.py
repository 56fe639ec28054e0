from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool import Batch, Out, Setup
from kdtool_methods.adversarial import Adversarial, Discriminator, domain_loss, reverse_gradient
from tests.methods.pairs import assert_agrees, random


def literal(is_teacher):
    def loss(scores):
        total = 0.0
        for score, teacher in zip(scores, is_teacher.tolist(), strict=True):
            chance = 1 / (1 + (-score).exp())
            total = total - (chance.log() if teacher else (1 - chance).log())
        return total / len(scores)

    return loss


@pytest.mark.parametrize("is_teacher", [[True, False, True, True], [False, True], [True, True], [False]])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_it_is_the_cross_entropy_of_two_domains(is_teacher, dtype):
    is_teacher = torch.tensor(is_teacher)
    scores = random(len(is_teacher))
    assert_agrees(lambda s: domain_loss(s, is_teacher.to(dtype)), literal(is_teacher), scores)


def test_limits():
    is_teacher = torch.tensor([True, False])
    assert domain_loss(torch.zeros(2), is_teacher).item() == pytest.approx(torch.tensor(2.0).log().item())
    assert domain_loss(torch.tensor([1e4, -1e4]), is_teacher).item() == 0
    wrong = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = domain_loss(wrong, is_teacher)
    assert loss.item() == pytest.approx(1e4)
    assert torch.autograd.grad(loss, wrong)[0].tolist() == pytest.approx([-0.5, 0.5])
    half = domain_loss(random(2).bfloat16(), is_teacher)
    assert half.dtype == torch.float32
    assert half >= 0


def test_reversal_changes_the_gradient_and_not_the_value():
    x = random(3, 4)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    weight = random(3, 4, seed=1).detach()
    torch.testing.assert_close(torch.autograd.grad((weight * y).sum(), x)[0], -0.3 * weight)


def test_the_discriminator_judges_by_class_where_there_is_one():
    torch.manual_seed(0)
    judge = Discriminator(5, 3, 8, "projection").double()
    outputs = random(1, 5).expand(4, 5)
    scores = judge(outputs, torch.tensor([0, 1, 2, -1]))
    assert len(set(scores.tolist())) == 4
    hidden = judge.body(outputs[:1])
    torch.testing.assert_close(scores[3:], judge.head(hidden)[0])
    torch.testing.assert_close(scores[1:2], judge.head(hidden)[0] + hidden @ judge.of_class.weight[1])
    blind = Discriminator(5, 3, 8, "none").double()(outputs, torch.tensor([0, 1, 2, -1]))
    assert (blind == blind[0]).all()


def build(teachers=1, labels=(0, 3, -1, 2), **options):
    setup = Setup({"embedding": (6,)}, [{"embedding": (7 + i,)} for i in range(teachers)], 5, 20, 4)
    if options.get("of") != "embedding":
        setup = Setup({}, [{}] * teachers, 5, 20, 4)
    labels = torch.tensor(labels)
    student = Out(random(4, 5), {"embedding": random(4, 6, seed=1)})
    outs = [
        Out(random(4, 5, seed=2 + i).detach(), {"embedding": random(4, 7 + i, seed=5 + i).detach()})
        for i in range(teachers)
    ]
    task_loss = lambda logits: F.cross_entropy(logits, labels, ignore_index=-1)  # noqa: E731
    torch.manual_seed(0)
    method = Adversarial(Adversarial.Config(**{"hidden": 8, **options}), setup).double()
    return method, Batch(labels, torch.arange(4), student, outs, task_loss)


@pytest.mark.parametrize("of", ["logits", "embedding"])
@pytest.mark.parametrize("condition", ["projection", "classify", "none"])
def test_student_and_discriminator_pull_in_opposite_directions(of, condition):
    method, batch = build(of=of, condition=condition, weight=0.5)
    judge, adapter = method.discriminators[0], method.adapters[0]
    term = method.loss(batch)["domain"]
    seen = [out.logits if of == "logits" else out.taps["embedding"] for out in (batch.student, *batch.teachers)]
    scores = [judge(adapter(seen[0]), batch.labels), judge(seen[1], batch.labels)]
    plain = domain_loss(torch.cat(scores), torch.tensor([False] * 4 + [True] * 4))
    torch.testing.assert_close(term, plain)
    own = [p for n, p in judge.named_parameters() if not n.startswith("classify")]
    for sign, leaves in ((-0.5, [seen[0], *adapter.parameters()]), (1.0, own)):
        got, want = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (term, plain))
        torch.testing.assert_close(got, tuple(sign * gradient for gradient in want))


def test_naming_the_class_is_a_shared_task():
    method, batch = build(condition="classify", weight=2.0)
    judge, seen = method.discriminators[0], (batch.student.logits, batch.teachers[0].logits)
    labelled = [0, 1, 3]
    losses = [F.cross_entropy(judge.classify(judge.body(x[labelled])), batch.labels[labelled]) for x in seen]
    want = losses[0] + losses[1]  # twice their mean
    got = method.loss(batch)["class"]
    torch.testing.assert_close(got, want)
    leaves = [batch.student.logits, *judge.classify.parameters(), *judge.body.parameters()]
    torch.testing.assert_close(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves))


def test_terms_are_summed_over_teachers():
    method, batch = build(teachers=2, condition="classify", l1=3.0)
    terms = method.loss(batch)
    assert list(terms) == ["domain", "class", "l1"]
    apart = [(batch.student.logits - out.logits).abs().mean() for out in batch.teachers]
    torch.testing.assert_close(terms["l1"], 3 * (apart[0] + apart[1]))
    total = 0
    for number in (0, 1):
        alone, _ = build(condition="classify")
        alone.discriminators = torch.nn.ModuleList([method.discriminators[number]])
        batch_of_one = Batch(batch.labels, batch.index, batch.student, [batch.teachers[number]], batch.task_loss)
        total = total + alone.loss(batch_of_one)["domain"]
    torch.testing.assert_close(terms["domain"], total)


@pytest.mark.parametrize("options", [{}, {"condition": "classify"}, {"of": "embedding"}])
def test_every_part_trains_and_the_student_with_it(options):
    method, batch = build(**options)
    leaves = {"logits": batch.student.logits, **dict(method.named_parameters())}
    found = torch.autograd.grad(sum(method.loss(batch).values()), list(leaves.values()))
    assert all(gradient.abs().sum() > 0 for gradient in found)
    (stage,) = method.stages()
    assert (stage.trains, stage.task_weight) == (("student", "method"), 1.0)


@pytest.mark.parametrize("condition", ["projection", "classify"])
def test_a_batch_without_labels_is_judged_without_classes(condition):
    method, batch = build(labels=(-1, -1, -1, -1), condition=condition, l1=0.0)
    terms = method.loss(batch)
    assert "l1" not in terms
    assert all(term.isfinite() for term in terms.values())
    gradients = torch.autograd.grad(sum(terms.values()), list(method.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    if condition == "classify":
        assert terms["class"].item() == 0


def test_its_taps_follow_the_options():
    assert Adversarial.taps(Adversarial.Config()).student == {}
    assert Adversarial.taps(Adversarial.Config(of="embedding")).teacher == {"embedding": "embedding"}


def test_its_state_makes_a_round_trip():
    (first, batch), (second, _) = build(), build()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.loss(batch)["domain"], second.loss(batch)["domain"])


def test_the_student_comes_to_pass_for_the_teacher():
    """Outputs of two classes far from the teacher's end where the teacher's are, class by class."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    centre = torch.tensor([[3.0, -3.0], [-3.0, 3.0]], dtype=torch.float64)[labels]
    teacher = Out(centre + 0.5 * random(64, 2).detach())
    free = random(64, 2, seed=1).detach().requires_grad_()
    setup = Setup({}, [{}], 2, 64, 64)
    method = Adversarial(Adversarial.Config(l1=0.0, hidden=16), setup).double()
    optimizer = torch.optim.Adam([{"params": [free], "lr": 0.05}, {"params": method.parameters(), "lr": 0.02}])

    def apart():
        gaps = [free[labels == k].mean(0) - teacher.logits[labels == k].mean(0) for k in (0, 1)]
        return torch.stack(gaps).norm().item()

    before = apart()
    for _ in range(300):
        batch = Batch(labels, torch.arange(64), Out(free), [teacher], lambda logits: logits.sum())
        optimizer.zero_grad()
        method.loss(batch)["domain"].backward()
        optimizer.step()
    assert apart() < before / 2


@pytest.mark.parametrize("of", ["logits", "embedding"])
@pytest.mark.parametrize("condition", ["projection", "classify"])
def test_turns_ask_of_each_side_what_the_joint_step_does(of, condition):
    """Each turn has the joint loss's gradient for its own side, and none for the other."""
    method, batch = build(of=of, condition=condition, weight=0.5, updates="alternating")
    (stage,) = method.stages()
    judge, deceive = stage.turns
    seen = batch.student.logits if of == "logits" else batch.student.taps["embedding"]
    ours = [seen, *method.adapters.parameters()]
    theirs = list(method.discriminators.parameters())
    joint = sum(method.loss(batch).values())
    for turn, own, other in ((judge, theirs, ours), (deceive, ours, theirs)):
        total = sum(turn(batch).values())
        want = torch.autograd.grad(joint, own, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(total, own, retain_graph=True), want)
        assert all(grad is None for grad in torch.autograd.grad(total, other, allow_unused=True))
    assert all(parameter.requires_grad for parameter in theirs)
    assert build()[0].stages()[0].turns == ()
