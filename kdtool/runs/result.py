"""What a run shows before it starts and when it is done."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdtool import __version__
from kdtool.recipe import load as recipes
from kdtool.tasks.images.data.loader import Loader
from kdtool.engine.evaluate import predict
from kdtool.engine.job import Fitted
from kdtool.engine.precision import Precision
from kdtool.engine.processes import from_main, is_main, world_size
from kdtool.tasks.images.models.build import Built
from kdtool.tasks.images.models.measure import macs, parameters
from kdtool.tasks.images.models.save import how_to_open, save_student

if TYPE_CHECKING:
    from kdtool.runs.setting import Run


def describe(run: Run) -> dict[str, Any]:
    """Return what a dry run shows: the resolved recipe, tap shapes, stages, parameters and MACs."""
    networks = run.networks
    return {
        "dry_run": True,
        "recipe": recipes.to_dict(run.recipe),
        "image_size": run.image_size,
        "classes": run.task.num_classes,
        "taps": {"student": networks.shapes[0], "teachers": networks.shapes[1]},
        "stages": [
            {
                "name": planned.stage.name,
                "epochs": planned.epochs,
                "steps": planned.epochs * run.train_loader.steps,
                "trains": list(planned.stage.trains),
                "task_weight": planned.stage.task_weight,
            }
            for planned in run.stages
        ],
        "models": [
            *(_about("teacher", built) for built in networks.teachers),
            _about("student", networks.student),
            *([{"role": "method", "name": run.recipe.method, "params": parameters(run.method), "macs": None}]
              if run.method is not None else []),
        ],
    }  # fmt: skip


def outcome(run: Run, fitted: Fitted, baseline: Fitted | None) -> dict[str, Any]:
    """Save the student, look at the test split for the only time, and return what ``result.json`` holds."""
    assert run.folder is not None
    recipe, networks = run.recipe, run.networks
    shipped = dataclasses.replace(networks.student, mean=networks.mean, std=networks.std)
    place = run.folder / "student"
    if is_main():
        save_student(place, shipped, fitted.state, run.data.class_names, recipe.data.eval_crop)
        if baseline is not None:  # so that it can be measured class by class, as the student is
            alone_place = run.folder / "baseline" / "student"
            save_student(alone_place, shipped, baseline.state, run.data.class_names, recipe.data.eval_crop)
    size = from_main((place / "model.safetensors").stat().st_size if is_main() else None)
    test = run.loader(run.data.test, train=False)
    student = _test(run, networks.student_net, fitted.state, test)
    same = fitted.best["epoch"] == fitted.last["epoch"]
    last = student if same else _test(run, networks.student_net, fitted.last_state, test)
    alone = _test(run, networks.student_net, baseline.state, test) if baseline is not None else None
    teachers = [_test(run, net, None, test) for net in networks.teacher_nets]
    about = [_about("teacher", built) for built in networks.teachers]
    return {
        "kdtool": __version__,
        "method": recipe.method,
        "folder": str(run.folder),
        "data": {"name": run.data.name, "classes": run.task.num_classes, "train": run.train_size,
                 "val": len(run.data.val.labels) if run.data.val is not None else 0,
                 "test": len(run.data.test.labels), "image_size": run.image_size},
        "student": {**_about("student", networks.student), "bytes": size,
                    "open_with": how_to_open(shipped, place)},
        "teacher": _one_or_list([{**each, "bytes": _bytes(built.module)}
                                 for each, built in zip(about, networks.teachers, strict=True)]),
        "test": {"student": student, "student_last": last, "teacher": _one_or_list(teachers), "baseline": alone},
        "gain_points": round(100 * (student["top1"] - alone["top1"]), 4) if alone is not None else None,
        "epochs": {"best": fitted.best, "last": fitted.last,
                   "selected": recipe.train.select if fitted.best["val"] else "last"},
        "steps": fitted.steps,
        "chain": run.chain,
        "seed": recipe.train.seed,
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "seconds": {name: round(value, 1) for name, value in run.seconds.items()},
    }  # fmt: skip


def _test(run: Run, network: nn.Module, state: dict[str, Tensor] | None, test: Loader) -> dict[str, Any]:
    # fp32 whatever the training's precision: what is reported is what a plain timm user gets.
    plain = network.to(run.device, torch.float32)
    if state is not None:
        module: Any = plain.module
        module.load_state_dict(state)
    logits, labels = predict(plain, test, Precision("fp32", run.device))
    return run.task.metrics(logits, labels)


def _about(role: str, built: Built) -> dict[str, Any]:
    return {
        "role": role,
        "name": built.name,
        "weights": built.origin,
        "params": parameters(built.module),
        "macs": macs(built.module, built.image_size),
        "image_size": built.image_size,
    }


def _bytes(module: nn.Module) -> int:
    """Return what the network's weights take as a file."""
    from safetensors.torch import save

    return len(save({name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}))


def _one_or_list(items: list[Any]) -> Any:
    """A single teacher is shown as itself, several as a list, none as None."""
    return (items[0] if len(items) == 1 else items) if items else None
