from __future__ import annotations

import pytest
import torch

from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods.ab import AB, Connector, boundary_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def literal(margin, teacher):
    def loss(student):
        total = 0.0
        for s, t in zip(student.reshape(-1), teacher.reshape(-1), strict=True):
            gap = margin - s if t > 0 else margin + s
            total = total + (gap**2 if gap > 0 else 0 * gap)
        return total / len(student)

    return loss


@pytest.mark.parametrize("margin", [1.0, 0.3])
@pytest.mark.parametrize("shape", [(3, 2, 3, 2), (2, 5)])
def test_it_is_the_paper_s_equation(shape, margin):
    teacher = random(*shape, seed=1).detach()
    teacher.view(-1)[0] = 0.0  # on the boundary: not active
    assert_agrees(lambda s: boundary_loss(s, teacher, margin), literal(margin, teacher), random(*shape))


def test_a_relu_of_the_teacher_changes_nothing():
    student, teacher = random(3, 2, 2, 2), random(3, 2, 2, 2, seed=1)
    want = boundary_loss(student, teacher)
    for activation in (torch.relu, torch.nn.functional.silu, torch.nn.functional.gelu):
        assert torch.equal(boundary_loss(student, activation(teacher)), want)


def test_rows_may_have_shares_of_their_own():
    teacher, share = random(3, 2, 2, 2, seed=1).detach(), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)

    def literal_of(student):
        return sum(share[row] * literal(1.0, teacher[row : row + 1])(student[row : row + 1]) for row in range(3))

    assert_agrees(lambda s: boundary_loss(s, teacher, 1.0, share), literal_of, random(3, 2, 2, 2))


def test_padded_sequences_count_alike_whatever_their_length():
    setup = setup_of([(4, 5)], [[(4, 5)]])
    method, batch = AB(AB.Config(layers=[1.0], weight=1.0), setup).double(), batch_of(setup, size=2)
    batch.student.mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    (ours,), (theirs,) = batch.student.taps["stages"], batch.teachers[0].taps["stages"]
    want = sum(
        4 * boundary_loss(ours[row, :length], theirs[row, :length]) / 2 for row, length in enumerate((4, 1))
    )  # boundary_loss is a mean over a sequence's tokens here, of which there are 4 places
    torch.testing.assert_close(method.boundary(batch)["boundary"], want)


def test_limits():
    teacher = random(2, 3, 2, 2)
    beyond = teacher.sign() * 1.5
    assert boundary_loss(beyond, teacher).item() == 0
    assert boundary_loss(torch.zeros_like(teacher), teacher).item() == 12  # margin^2 for each of 24 entries, over 2
    half = boundary_loss(teacher.bfloat16(), teacher.bfloat16())
    assert half.dtype == torch.float32
    assert half >= 0
    with pytest.raises(ValueError, match="shapes differ"):
        boundary_loss(random(2, 3), random(2, 4))


@pytest.mark.parametrize(("student", "teacher"), [((3, 4, 4), (5, 2, 2)), ((3, 2, 4), (5, 4, 2)), ((3, 4, 4), (6, 5))])
def test_the_connector_gives_the_teacher_s_map(student, teacher):
    out = Connector(student, teacher)(random(4, *student).float())
    assert out.shape[1:] == ((teacher[1], teacher[0], 1) if len(teacher) == 2 else teacher)
    assert (out.mean((0, 2, 3)).abs() < 1e-5).all()
    assert (out < 0).any()


def build(**options):
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3)], [(6, 2, 2), (7, 2, 2)]])
    return AB(AB.Config(**options), setup).double(), batch_of(setup)


def test_stage_init_sums_weighted_layers_and_teachers():
    method, batch = build(weight=0.01)
    stages, teachers = batch.student.taps["stages"], batch.teachers
    want = 0
    for teacher in (0, 1):
        for layer, weight in ((0, 0.005), (1, 0.01)):
            pre = method.connectors[2 * teacher + layer](stages[layer])
            want = want + weight * boundary_loss(pre, teachers[teacher].taps["stages"][layer])
    terms = method.boundary(batch)
    assert list(terms) == ["boundary"]
    torch.testing.assert_close(terms["boundary"], want)


def test_features_of_one_shape_are_compared_as_they_are():
    setup = setup_of([(4, 4, 4), (3, 2, 2), (6, 5)], [[(4, 4, 4), (5, 2, 2), (6, 5)]])
    method, batch = AB(AB.Config(layers=[0.0, 0.5, 1.0], weight=1.0, layer_weights="equal"), setup).double(), None
    assert [type(each).__name__ for each in method.connectors] == ["Identity", "Connector", "Identity"]
    batch = batch_of(setup)
    ours, theirs = batch.student.taps["stages"], batch.teachers[0].taps["stages"]
    want = boundary_loss(ours[0], theirs[0]) + boundary_loss(method.connectors[1](ours[1]), theirs[1])
    want = want + boundary_loss(ours[2], theirs[2])
    torch.testing.assert_close(method.boundary(batch)["boundary"], want)


def test_both_sides_are_read_before_the_activation():
    taps = AB.taps(AB.Config())
    assert list(taps.student["stages"]) == list(taps.teacher["stages"]) == ["0.33:pre", "0.67:pre", "1.0:pre"]
    named = AB.taps(AB.Config(teacher_layers=["a", "b", "c"]))
    assert list(named.teacher["stages"]) == ["a", "b", "c"]


def test_the_weights_of_layers():
    assert build()[0].weights == pytest.approx([50 / 45, 100 / 45, 50 / 28, 100 / 28])
    assert build(layer_weights="equal", weight=0.1)[0].weights == [0.1] * 4


def test_stages_train_what_they_say():
    method, batch = build(soft_weight=2.0, hard_weight=0.5)
    init, distill = method.stages()
    assert (init.name, init.epochs, init.trains, init.task_weight) == ("init", 0.3, ("student", "method"), 0.0)
    assert (distill.name, distill.epochs, distill.trains, distill.task_weight) == ("distill", None, ("student",), 0.5)
    parts = {name for name, _ in method.named_parameters()}
    assert gradients(method, batch, init.loss) == {"stages.0", "stages.1", *parts}
    assert gradients(method, batch, distill.loss) == {"logits"}
    teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=3.0)
    torch.testing.assert_close(distill.loss(batch)["kl"], 2 * softened_kl(batch.student.logits, teacher, 3.0))
    assert build(init_epochs=7)[0].stages()[0].epochs == 7


def test_its_state_makes_a_round_trip():
    (first, batch), (second, _) = build(), build()
    first.boundary(batch)  # moves the running statistics
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    assert torch.equal(first.boundary(batch)["boundary"], second.boundary(batch)["boundary"])


def test_training_moves_the_boundaries():
    torch.manual_seed(0)
    method, batch = build()
    student = torch.nn.ParameterList(tap.detach().clone() for tap in batch.student.taps["stages"])
    batch.student.taps["stages"] = list(student)
    optimizer = torch.optim.Adam([*method.parameters(), *student], lr=0.05)

    def same_side():
        pre = method.connectors[0](batch.student.taps["stages"][0])
        return ((pre > 0) == (batch.teachers[0].taps["stages"][0] > 0)).double().mean().item()

    before = same_side()
    for _ in range(100):
        optimizer.zero_grad()
        method.boundary(batch)["boundary"].backward()
        optimizer.step()
    assert same_side() > before + 0.1
