"""The rates of a run's stages, step by step: each stage goes through the whole schedule, in its own length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from kdtool import Stage
from kdtool.engine.composition import build_method
from kdtool.engine.optim import build_optimizer, build_schedule, settings_of
from kdtool.engine.plan import Planned, plan_stages
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.method import Batch, Method, Setup, Terms
from kdtool.recipe.rates import Optim, Schedule
from tests.engine import tiny
from tests.engine.test_trainer import Hinted

STEPS = 7
PAPER = Schedule(name="multistep", milestones=[150, 180, 210], warmup_epochs=0)
SGD = Optim(name="momentum", lr=0.05)


def rates(planned: Sequence[Planned], optim: Optim, schedule: Schedule, budget: int, steps: int = STEPS) -> list[float]:
    """Return the rate of every step of a run, stage after stage."""
    found = []
    for each in planned:
        own, shape = settings_of(each.stage, optim, schedule)
        optimizer = build_optimizer(own, torch.nn.Linear(1, 1))
        scheduler = build_schedule(shape, optimizer, each.epochs, steps, budget)
        for step in range(each.epochs * steps):
            scheduler.step_update(step)
            found.append(optimizer.param_groups[0]["lr"])
    return found


def runs_of(values: Sequence[float]) -> list[tuple[int, float]]:
    """Return how many steps each rate lasts, in order."""
    found: list[tuple[int, float]] = []
    for value in values:
        rate = float(f"{value:.6g}")
        found = [*found[:-1], (found[-1][0] + 1, rate)] if found and found[-1][1] == rate else [*found, (1, rate)]
    return found


class Staged(Method):
    """Stages as given."""

    api = 1

    def __init__(self, *stages: Stage):
        super().__init__(None, Setup({}, [], 3, 48, 8))
        self.given = list(stages)

    def stages(self) -> list[Stage]:
        return list(self.given)


def nothing(batch: Batch) -> Terms:
    return {}


def test_one_stage_drops_between_the_papers_epochs() -> None:
    found = runs_of(rates(plan_stages(None, 240, None), SGD, PAPER, 240))
    assert found == [(150 * STEPS, 0.05), (30 * STEPS, 0.005), (30 * STEPS, 0.0005), (30 * STEPS, 0.00005)]


def test_a_stage_within_the_budget_goes_through_the_whole_schedule_in_its_length() -> None:
    planned = plan_stages(Staged(Stage("first", nothing, epochs=48), Stage("second", nothing)), 240, None)
    found = runs_of(rates(planned, SGD, PAPER, 240, steps=10))
    first = [(300, 0.05), (60, 0.005), (60, 0.0005), (60, 0.00005)]
    second = [(4 * steps, rate) for steps, rate in first]
    assert found == [*first, *second]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_what_spans_a_stage_anyway_is_not_shrunk_twice(name: str) -> None:
    schedule = Schedule(name=name, warmup_epochs=0, min_lr=0.0)
    planned = plan_stages(Staged(Stage("first", nothing, epochs=10), Stage("second", nothing)), 40, None)
    found = rates(planned, SGD, schedule, 40)
    assert found[0] == found[10 * STEPS] == 0.05
    assert found[10 * STEPS - 1] < 0.002
    assert found[-1] < 0.001


def test_the_period_of_step_shrinks_too() -> None:
    planned = plan_stages(Staged(Stage("first", nothing, epochs=20), Stage("second", nothing)), 40, None)
    found = runs_of(rates(planned, SGD, Schedule(name="step", step_epochs=20, warmup_epochs=0), 40))
    assert found == [(10 * STEPS, 0.05), (10 * STEPS, 0.005)] * 2


def test_a_stage_on_top_with_its_own_rate_and_schedule_leaves_the_budget_to_the_others() -> None:
    first = Stage("first", nothing, epochs=30, on_top=True, lr=0.01, schedule="constant")
    planned = plan_stages(Staged(first, Stage("second", nothing)), 240, None)
    assert [(each.epochs, each.first_epoch) for each in planned] == [(30, 0), (240, 30)]
    found = runs_of(rates(planned, SGD, PAPER, 240))
    assert found == [
        (30 * STEPS, 0.01), (150 * STEPS, 0.05), (30 * STEPS, 0.005), (30 * STEPS, 0.0005), (30 * STEPS, 0.00005)
    ]  # fmt: skip


def test_the_trainer_follows_what_a_stage_says(tmp_path: Path) -> None:
    method = Hinted(on_top=True, lr=0.01, schedule="constant")
    schedule = Schedule(name="multistep", milestones=[2, 3], warmup_epochs=0)
    fitted = fit(tiny.job(tmp_path, method, schedule=schedule), Reporter(), StopRequest())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], round(line["lr"], 9)) for line in lines] == [
        ("hint", 0.01), ("hint", 0.01), ("distill", 0.05), ("distill", 0.05), ("distill", 0.005), ("distill", 0.0005)
    ]  # fmt: skip
    assert fitted.steps == 6 * tiny.Batches().steps


def test_a_schedule_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"stage 'first' has the schedule 'waves'; valid: cosine, .*constant"):
        settings_of(Stage("first", nothing, schedule="waves"), SGD, PAPER)


def test_methods_in_one_must_agree_on_their_joint_stage() -> None:
    def method(rate: float | None) -> type[Method]:
        class Rated(Staged):
            def __init__(self, *_: object):
                super().__init__(Stage("distill", nothing, lr=rate))

        return Rated

    def joined(*found: float | None) -> Method | None:
        classes = {f"m{number}": method(rate) for number, rate in enumerate(found)}
        return build_method(classes, dict.fromkeys(classes), Setup({}, [{}], 3, 48, 8))

    agreed = joined(None, 0.01, 0.01)
    assert agreed is not None
    assert agreed.stages()[-1].lr == 0.01
    with pytest.raises(InputError, match=r"another lr each \(m0: 0.01, m1: 0.02\)"):
        plan_stages(joined(0.01, 0.02), 4, None)
