"""Weights & Biases, online or, with ``WANDB_MODE=offline``, in the run's folder for ``wandb sync``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WeightsAndBiases:
    """See ``kdtool.track.follow.Tracker``. A resumed run goes on under its id."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], known: str | None):
        import wandb

        self.known = known or secrets.token_hex(4)
        self.run: Any = wandb.init(
            project=project, name=folder.name, id=self.known, resume="allow", dir=str(folder), config=dict(config)
        )
        # Not wandb's own steps, which may not go back: a phase counts its epochs from 1.
        self.phases: set[str] = set()

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        phase = next(iter(values)).split("/")[0]
        if phase not in self.phases:
            self.phases.add(phase)
            self.run.define_metric(f"{phase}/*", step_metric=f"{phase}/epoch")
        self.run.log({**values, f"{phase}/epoch": epoch})

    def finish(self, summary: Mapping[str, float] | None) -> None:
        if summary is not None:
            self.run.summary.update(dict(summary))
        self.run.finish(exit_code=0 if summary is not None else 1)
