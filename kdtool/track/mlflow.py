"""MLflow, where ``MLFLOW_TRACKING_URI`` says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdtool.track.follow import flat

_LONGEST = 500
"""Characters of a parameter's value that MLflow takes."""


class MLflow:
    """See ``kdtool.track.follow.Tracker``. A resumed run goes on under its id, and is running again."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], known: str | None):
        from mlflow import MlflowClient

        self.client: Any = MlflowClient()
        if known is not None:
            self.known = known
            self.client.update_run(known, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(project)
        experiment = found.experiment_id if found is not None else self.client.create_experiment(project)
        self.known = self.client.create_run(experiment, run_name=folder.name).info.run_id
        for key, value in flat(config).items():
            self.client.log_param(self.known, _name(key), value[:_LONGEST])

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.known, _name(name), value, step=epoch)

    def finish(self, summary: Mapping[str, float] | None) -> None:
        for name, value in (summary or {}).items():
            self.client.log_metric(self.known, _name(name), value)
        self.client.set_terminated(self.known, "FINISHED" if summary is not None else "KILLED")


def _name(text: str) -> str:
    """Return a name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", text)
