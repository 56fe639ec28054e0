"""A task small enough to train in milliseconds, made of the engine's own interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.job import Job, Loaded
from kdtool.method import Method
from kdtool.randomness import epoch_order
from kdtool.recipe.rates import Optim, Schedule
from kdtool.recipe.schema import Checkpoint, Train
from kdtool.tasks.common.classification import Classification

CLASSES = 3


class Batches:
    """Batches on a device; ``part``: (r, n), what process r of n is given of each."""

    def __init__(
        self,
        count: int = 48,
        batch_size: int = 8,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        part: tuple[int, int] = (0, 1),
    ):
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.arange(count) % CLASSES
        self.images = torch.randn(count, 3, 8, 8, generator=generator) + self.labels.view(-1, 1, 1, 1)
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.batch_size, self.device, self.part = batch_size, device, part
        self.served: list[tuple[int, int]] = []

    @property
    def steps(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        positions = torch.from_numpy(epoch_order(0, epoch, len(self.labels)))
        order = positions.to(self.device)
        for step in range(start, self.steps):
            here = slice(step * self.batch_size, (step + 1) * self.batch_size)
            index = order[here]
            self.served.append((epoch, step))
            number, parts = self.part
            whole = Loaded(self.images[index], self.labels[index], index, view=0, positions=positions[here])
            yield whole.split(parts)[number]


class Net(nn.Module):
    """Two convolutions with batch norm; taps the map between them as "middle"."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, norm: bool = True):
        super().__init__()
        torch.manual_seed(seed)
        make_norm: Any = nn.BatchNorm2d if norm else (lambda width: nn.Identity())
        self.module = nn.ModuleDict(
            {
                "lower": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), make_norm(4), nn.ReLU()),
                "upper": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), make_norm(4), nn.ReLU(inplace=True)),
                "drop": nn.Dropout(dropout),
                "head": nn.Linear(4, CLASSES),
            }
        )

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        middle = self.module["lower"](x)
        pooled = self.module["upper"](middle).mean((2, 3))
        return self.module["head"](self.module["drop"](pooled)), {"middle": middle}


def job(folder: Path, method: Method | None = None, **changes: Any) -> Job:
    train = Train(**{"epochs": 4, "batch_size": 8, **changes.pop("train", {})})
    fields: dict[str, Any] = {
        "phase": "student",
        "student": Net(),
        "objective": Classification(CLASSES),
        "train_batches": Batches(),
        "val_batches": Batches(24),
        "train": train,
        "optim": Optim(lr=0.05),
        "schedule": Schedule(),
        "checkpoint": Checkpoint(),
        "folder": folder,
        "device": torch.device("cpu"),
        "key": "k",
        "resume_command": "again",
        "method": method,
        "teachers": [Net(seed=5)] if method is not None else [],
    }
    return Job(**{**fields, **changes})
