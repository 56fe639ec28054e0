"""The task: rows of numbers, one class each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool import Metric, Task, option
from kdtool.recipe import schema


@dataclass
class Teacher(schema.Teacher):
    model: str = option("64x64", "widths of the hidden layers, such as 64x32")


@dataclass
class Student(schema.Student):
    model: str = option("8", "widths of the hidden layers, such as 64x32")


@dataclass
class Data(schema.Data):
    name: str = option("table.csv", "a CSV file: a line of titles, then numbers, the class's name last")


class Table(Task):
    """Rows of numbers, one class each."""

    api = 1
    name = "table"
    unit = "rows"
    headline = Metric("top1", "accuracy")
    Data = Data
    Teacher = Teacher
    Student = Student

    def open(self, recipe: Any) -> Any:
        from kdtool_table.data import open_table

        return open_table(recipe.data)

    def student(self, recipe: Any, data: Any) -> Any:
        return _build(recipe.student, data, recipe.train.seed, "student")

    def teachers(self, recipe: Any, data: Any, online: bool) -> list[Any]:
        each = enumerate(recipe.teacher)
        if online:
            return [_build(section, data, recipe.train.seed, f"peer{number}") for number, section in each]
        return [_build(section, data, section.train.seed, "teacher") for _, section in each]

    def adapt(self, network: Any, teacher: Any, student: Any) -> Any:
        from kdtool.tasks.common.adapted import Unchanged

        return Unchanged(network)  # all take the same inputs

    def batches(self, data: Any, split: Any, recipe: Any, networks: Sequence[Any], reading: Any) -> Any:
        import torch

        from kdtool.tasks.common.held import HeldBatches

        values = torch.from_numpy(split.samples[split.rows])
        return HeldBatches(split, reading, lambda positions, view: values[positions], recipe.data)

    def objective(self, data: Any, label_smoothing: float) -> Any:
        from kdtool.tasks.common.classification import Classification

        return Classification(len(data.class_names), label_smoothing, self.headline)

    def save(self, folder: Path, built: Any, state: Mapping[str, Any], data: Any, recipe: Any) -> Path:
        from kdtool.tasks.common.weights import write_weights

        config = {"model": built.name, "features": built.features, "classes": list(data.class_names)}
        return write_weights(folder, state, {"config.json": json.dumps(config, indent=2) + "\n"})

    def how_to_open(self, built: Any, folder: Path) -> str:
        layers = ", ".join(f"torch.nn.{layer}" for layer in built.module)
        weights = str(folder / "model.safetensors")
        return f"net = torch.nn.Sequential({layers}); net.load_state_dict(safetensors.torch.load_file({weights!r}))"

    def specimens(self) -> Any:
        from kdtool.tasks.task import Specimens
        from kdtool_table.data import write

        return Specimens({"narrow": "8", "wide": "32x16"}, write)


def _build(section: Any, data: Any, seed: int, role: str) -> Any:
    from kdtool_table.networks import build

    return build(section.model, data.train.samples.shape[1], len(data.class_names), seed, role)
