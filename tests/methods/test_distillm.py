"""distillm's adaptive scheduler against a literal reading of Algorithm 1."""

from __future__ import annotations

import pytest

from kdtool.errors import InputError
from kdtool_methods.distillm import DistiLLM
from tests.methods.pairs import setup_of


def literal(losses, start, growth, tolerance):
    share, reference, found = start, losses[0], [start]
    for loss in losses[1:]:
        if loss >= reference + tolerance:
            share, reference = min(share + growth, 1.0), loss
        found.append(share)
    return found


@pytest.mark.parametrize("start", [0.0, 0.25])
@pytest.mark.parametrize("losses", [[3.0, 2.0, 2.9, 3.2, 3.2, 3.4, 9.0], [1.0] * 3, [1.0, *range(2, 9)]])
def test_the_share_grows_as_the_loss_rises(losses, start):
    method = DistiLLM(DistiLLM.Config(adaptive=True, on_policy=start, growth=0.3, tolerance=0.15), setup_of([], [[]]))
    found = []
    for loss in losses:
        method.after_validation({"nll": loss})
        found.append(method.share())
    assert found == pytest.approx(literal(losses, start, 0.3, 0.15))


def test_a_loss_that_stays_counts_as_risen_where_nothing_is_tolerated():
    for loss in (5.1, 5.7, 0.1, 1 / 3, 2 / 3):  # rounded up or down where the reference is kept
        method = DistiLLM(DistiLLM.Config(adaptive=True, tolerance=0.0), setup_of([], [[]]))
        for _ in range(4):
            method.after_validation({"nll": loss})
        assert method.share() == pytest.approx(0.3)


def test_it_goes_on_from_a_checkpoint_and_is_no_state_of_others():
    config = DistiLLM.Config(adaptive=True)
    one, other = (DistiLLM(config, setup_of([], [[]])) for _ in range(2))
    for loss in (1.0, 2.0, 3.0):
        one.after_validation({"nll": loss})
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.after_validation({"nll": 3.05})
        assert each.share() == pytest.approx(0.2)
        each.after_validation({"nll": 4.0})
        assert each.share() == pytest.approx(0.3)
    plain = DistiLLM(DistiLLM.Config(), setup_of([], [[]]))
    plain.after_validation({"top1": 0.5})
    assert not plain.state_dict()


def test_a_task_without_a_loss_of_tokens_is_refused():
    with pytest.raises(InputError, match="adaptive"):
        DistiLLM(DistiLLM.Config(adaptive=True), setup_of([], [[]])).after_validation({"top1": 0.5})
