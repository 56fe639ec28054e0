"""TensorBoard: event files in the run's folder; ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdtool.track.follow import flat


class TensorBoard:
    """See ``kdtool.track.follow.Tracker``. A resumed run adds a file to the same folder."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], known: str | None):
        from torch.utils.tensorboard import SummaryWriter

        self.known = "tensorboard"
        self.writer: Any = SummaryWriter(str(folder / self.known))
        if known is None:
            lines = [f"    {key}: {value}" for key, value in flat(config).items()]
            self.writer.add_text("recipe", "\n".join(lines))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self, summary: Mapping[str, float] | None) -> None:
        for name, value in (summary or {}).items():
            self.writer.add_scalar(name, value, 0)
        self.writer.close()
