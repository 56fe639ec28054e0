"""The checks of what ships: the student, or what a method makes of it, opens again as it was."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.method import Own
from kdtool.tasks.common.parts import parts_of
from kdtool.tasks.common.replaced import replaced, sharing
from kdtool.tasks.task import Built
from kdtool.testing.bench import Bench
from kdtool.testing.faults import RefusedError, at, require
from kdtool.testing.material import Material
from kdtool.testing.task_runs import opens_alone
from kdtool.testing.task_samples import TaskBench


def what_ships_opens(bench: Bench) -> None:
    alone = True
    for student, teacher in bench.pairs:
        with at(f"{student} student, {teacher} teacher"):
            rig = bench.rig(student, teacher)
            plain = rig.student.module
            module = rig.method.ships(sharing(plain))
            layers = replaced(plain, module)
            if not layers:
                return
            if not bench.material.task.ships_layers:
                raise RefusedError(f"the task {bench.task!r} ships no other layers than the student's")
            rig.enter(rig.stages[-1])
            rig.train(rig.batches[0], lr=0.01)
            built = dataclasses.replace(rig.student, module=module, replaced=layers)
            before = _logits(built, rig.batches[1].inputs)
            _comes_back(bench.material, student, built, rig.batches[1].inputs, alone)
            rig.enter(rig.stages[-1])
            rig.train(rig.batches[1], lr=0.1)
            after = _logits(built, rig.batches[1].inputs)
            require(not torch.equal(before, after), "what ships does not learn along: it has to share the student's")
            alone = False  # in a process of its own once: that takes seconds


def replaced_layers_open(bench: TaskBench) -> None:
    """A student may ship with other layers: they are saved, and put in again by whoever opens it."""
    found = bench.material
    for kind in found.kinds:
        built, _ = found.networks(kind, [], 0, False)
        classifier = parts_of(built.tapped(), False).classifier
        if not isinstance(classifier, Own) or not isinstance(classifier.layer, nn.Linear):
            continue
        with at(kind):
            module, classes = sharing(built.module), built.num_classes
            above, _, last = classifier.name.rpartition(".")
            own = module.get_submodule(classifier.name)
            layer = nn.Sequential(own, nn.ReLU(), nn.Linear(classes, classes))
            setattr(module.get_submodule(above), last, layer)
            shipped = dataclasses.replace(built, module=module, replaced=replaced(built.module, module))
            _comes_back(found, kind, shipped, found.batches([built])[0].inputs, alone=kind == found.kinds[0])


def _comes_back(found: Material, kind: str, built: Built, inputs: Any, alone: bool) -> None:
    want = _logits(built, inputs)
    require(tuple(want.shape)[1:] == (built.num_classes,), f"what ships gives {tuple(want.shape)}, not (B, K) logits")
    require(bool(want.isfinite().all()), "what ships gives logits that are not finite")
    with tempfile.TemporaryDirectory() as folder:
        path = found.task.save(Path(folder) / "student", built, built.module.state_dict(), found.data, found.recipe)
        recipe = copy.deepcopy(found.recipe)
        recipe.student.model, recipe.student.weights = found.specimens.models[kind], str(path)
        again = found.task.student(recipe, found.data)
        require(again.replaced == built.replaced, "opened again, it has not the layers that were put in")
        require(torch.equal(_logits(again, inputs), want), "opened again, it gives other logits")
        if alone:
            opens_alone(found.task.how_to_open(built, path.parent), path)


def _logits(built: Built, inputs: Any) -> Tensor:
    with undisturbed(built.module):
        found: Tensor = built.tapped()(inputs)[0]
        return found
