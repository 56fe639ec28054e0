"""What a run shows before it starts and when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool import __version__
from kdtool.engine.evaluate import evaluate_in_fp32, evaluate_predictions, plain_precision
from kdtool.engine.job import Batches, Fitted, RowMeter
from kdtool.engine.precision import Precision
from kdtool.engine.processes import from_main, is_main, world_size
from kdtool.engine.shards import is_sharded, load_whole
from kdtool.recipe import load as recipes
from kdtool.runs.estimate import estimate
from kdtool.runs.paired import Rows, difference
from kdtool.runs.setting import Setting
from kdtool.runs.shipping import shipped
from kdtool.runs.verdict import sentences
from kdtool.tasks.common.cost import parameters
from kdtool.tasks.common.data_report import DataReport
from kdtool.tasks.task import Built

STUDENT = "student"
"""The folder of a run's that ships."""


def describe(setting: Setting, report: DataReport | None) -> dict[str, Any]:
    """Return what a dry run shows: what the data hold, tap shapes, stages, parameters, MACs, time and the recipe.

    Args:
        setting: what would be run.
        report: of its data, None without one.
    """
    networks = setting.networks
    return {
        "dry_run": True,
        "data": report.to_dict() if report is not None else None,
        "seconds": estimate(setting, report.seconds if report is not None else None),
        "recipe": recipes.to_dict(setting.recipe),
        **setting.student.describe(),
        "classes": setting.objective.num_classes,
        "taps": {"student": networks.shapes[0], "teachers": networks.shapes[1]},
        "stages": [
            {
                "name": planned.stage.name,
                "epochs": planned.epochs,
                "steps": planned.epochs * setting.train_batches.steps,
                "trains": list(planned.stage.trains),
                "task_weight": planned.stage.task_weight,
            }
            for planned in setting.stages
        ],
        "models": [
            *(_about("teacher", built, cost_of(built)) for built in networks.teachers),
            _about("student", shipped(setting), cost_of(shipped(setting))),
            *([{"role": "method", "name": setting.recipe.method, "params": parameters(setting.method), "macs": None}]
              if setting.method is not None else []),
        ],
    }  # fmt: skip


Cost = dict[str, int]
"""Of a network: "params", "macs" and "bytes"."""


def cost_of(built: Built) -> Cost:
    """Return what a network costs, which is whole on this process: parameters, multiply-accumulates, bytes as a file."""
    return {
        "params": parameters(built.module),
        "macs": built.macs,
        "bytes": _bytes(built.module),
    }


def outcome(
    setting: Setting,
    costs: Sequence[Cost],
    folder: Path,
    fitted: Fitted,
    baseline: Fitted | None,
    chain: Sequence[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Save the student, look at the test split for the only time, and return what ``result.json`` holds.

    Args:
        setting: what was run.
        costs: of the student as it ships and of the teachers, found before processes divided them.
        folder: the run's.
        fitted, baseline: the trainings.
        chain: folders of the runs that made this one's teacher.
        seconds: what each part took.
    """
    recipe, networks, data, task = setting.recipe, setting.networks, setting.data, setting.task
    built = shipped(setting)
    # What is divided among processes runs as it was divided.
    network = networks.student_net if is_sharded(networks.student_net) else built.tapped()
    place = folder / STUDENT
    if is_main():
        task.save(place, built, fitted.state, data, recipe)
        if baseline is not None:  # so that it can be measured class by class, as the student is
            task.save(folder / "baseline" / STUDENT, setting.student, baseline.state, data, recipe)
    size = from_main((place / "model.safetensors").stat().st_size if is_main() else None)
    test = setting.batches(data.test)
    predictions = _test_predictions(setting, test)  # first: what ships may be of another epoch, and shares its tensors
    student, scores = _test(setting, network, fitted.state, test)
    same = fitted.best["epoch"] == fitted.last["epoch"]
    last = student if same else _test(setting, network, fitted.last_state, test)[0]
    alone, theirs = _test(setting, networks.student_net, baseline.state, test) if baseline is not None else (None, None)
    teachers = [_test(setting, net, None, setting.teacher_batches(number, data.test, test))[0]
                for number, net in enumerate(networks.teacher_nets)]  # fmt: skip
    about = [{**_about("teacher", built, cost), **origin_of(built), **({"apart": True} if built.apart else {})}
             for built, cost in zip(networks.teachers, costs[1:], strict=True)]  # fmt: skip
    metric = setting.objective.metric
    gain = metric.gain(student[metric.key], alone[metric.key]) if alone is not None else None
    if scores is not None and is_main():
        scores.write(folder)
    found: dict[str, Any] = {
        "kdtool": __version__,
        "task": task.name,
        "unit": task.unit,
        "metric": metric.to_dict(),
        "method": recipe.method,
        "folder": str(folder),
        "data": {"name": data.name, "classes": setting.objective.num_classes, "train": setting.train_size,
                 "val": len(data.val) if data.val is not None else 0,
                 "test": len(data.test), **setting.student.describe()},
        "student": {**_about("student", built, costs[0]), "bytes": size, "open_with": task.how_to_open(built, place)},
        "teacher": _one_or_list([{**each, "bytes": cost["bytes"]}
                                 for each, cost in zip(about, costs[1:], strict=True)]),
        "test": {"student": student, "student_last": last, "teacher": _one_or_list(teachers), "baseline": alone,
                 **({"predictions": predictions} if predictions else {})},
        "chance": chance(setting, scores),
        "difference": difference(scores, theirs) if scores is not None and theirs is not None else None,
        "gain": round(gain, 4) if gain is not None else None,
        "gain_points": round(gain, 4) if gain is not None and metric.percent else None,
        "epochs": {"best": fitted.best, "last": fitted.last,
                   "selected": recipe.train.select if fitted.best["val"] else "last"},
        "steps": fitted.steps,
        "chain": list(chain),
        "seed": recipe.train.seed,
        "device": str(setting.device),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }  # fmt: skip
    return {**found, "says": sentences(found, recipe, setting.online)}


def chance(setting: Setting, scores: Rows | None) -> float | None:
    """Return what guessing gives on the test split: of hits, what always naming its commonest class gives.

    Args:
        setting: the run's.
        scores: a network's there; None where its metric is no mean of them.
    """
    usual = setting.objective.chance
    if usual is None or scores is None or not scores.hits:
        return usual
    labels = setting.data.test.labels
    return max(usual, float(np.bincount(labels[labels >= 0]).max(initial=0)) / max(1, len(labels)))


def _test(
    setting: Setting, network: nn.Module, state: dict[str, Tensor] | None, test: Batches
) -> tuple[dict[str, Any], Rows | None]:
    """Return the metrics, and what each row adds to the one that epochs are selected by."""
    # What is reported is what a plain user gets.
    if state is not None:
        module: Any = network.to(setting.device, plain_precision(network, setting.device).dtype).module
        load_whole(module, state)
    meter = setting.objective.meter()
    metrics = evaluate_in_fp32(network, test, setting.device, meter)
    scores = meter.scores(setting.objective.metric.key) if isinstance(meter, RowMeter) else None
    return metrics, Rows.of(scores, getattr(test, "offsets", None)) if scores is not None else None


def _test_predictions(setting: Setting, test: Batches) -> dict[str, dict[str, Any]]:
    student, method, device = setting.networks.student_net, setting.method, setting.device
    plain = plain_precision(student, device)
    for module in (student, method):
        if module is not None:
            module.to(device, plain.dtype)
    return evaluate_predictions(student, method, test, plain, setting.objective.meter)


def _about(role: str, built: Built, cost: Cost) -> dict[str, Any]:
    return {
        "role": role,
        "name": built.name,
        "weights": built.origin,
        "params": cost["params"],
        "macs": cost["macs"],
        **built.describe(),
    }


def origin_of(built: Built) -> dict[str, Any]:
    """Return where a teacher's weights came from, as advice on it asks: "weights", and whether it was "trained" here."""
    return {"weights": built.origin, "trained": built.needs_training}


def _bytes(module: nn.Module) -> int:
    """Return what the network's weights take as a file."""
    from safetensors.torch import save

    own = {id(tensor): (name, tensor) for name, tensor in module.state_dict(keep_vars=True).items()}  # shared ones once
    return len(save({name: tensor.detach().contiguous().clone() for name, tensor in own.values()}))


def _one_or_list(items: list[Any]) -> Any:
    """A single teacher is shown as itself, several as a list, none as None."""
    return (items[0] if len(items) == 1 else items) if items else None
