"""metrics.jsonl: one line an epoch, equal for a resumed and an uninterrupted run but for times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdtool.system.disk import append_line, write_whole


class EpochLog:
    """Appends records; ``keep`` drops those that a resumed run is about to write again."""

    def __init__(self, path: Path):
        self.path = path

    def keep(self, at: Mapping[str, int]) -> None:
        """Keep the records of epochs that lie before position ``at`` (stage and epoch, from 0)."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                place = json.loads(line)["place"]
            except (ValueError, KeyError, TypeError):
                break  # a line torn by a crash, and with it all that follow
            if tuple(place) >= (at["stage"], at["epoch"]):
                break
            kept.append(line + "\n")
        write_whole(self.path, "".join(kept))

    def write(self, at: Mapping[str, int], record: Mapping[str, Any]) -> None:
        """Append a record of the epoch at position ``at``."""
        append_line(self.path, json.dumps({"place": [at["stage"], at["epoch"]], **record}))
