"""A teacher that takes the student's inputs as they are."""

from __future__ import annotations

from typing import Any

from torch import nn


class Unchanged(nn.Module):
    """A tapped network under the name that an adapted one has; what ``kdtool.tasks.task.Task.adapt`` is to return."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    @property
    def module(self) -> Any:
        """The plain network, whose weights are stored."""
        return self.network.module

    def forward(self, inputs: Any) -> Any:
        return self.network(inputs)
