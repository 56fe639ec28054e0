"""metrics.jsonl: one line an epoch, equal for a resumed and an uninterrupted run but for times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdtool.system import strict_json
from kdtool.system.disk import append_line, write_whole

METRICS = "metrics.jsonl"
"""The log's name in a run's folder."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the whole records of a log, [] without one; one that a crash tore ends it.

    Records of older versions are brought up to date: "images_per_s" is "samples_per_s" now.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        if "images_per_s" in record:
            record["samples_per_s"] = record.pop("images_per_s")
        found.append(record)
    return found


class EpochLog:
    """Appends records; ``keep`` drops those that a resumed run is about to write again."""

    def __init__(self, path: Path):
        self.path = path

    def keep(self, at: Mapping[str, int]) -> None:
        """Keep the records of epochs that lie before position ``at`` (stage and epoch, from 0)."""
        if not self.path.exists():
            return
        kept = []
        for record in read_log(self.path):
            try:
                early = tuple(record["place"]) < (at["stage"], at["epoch"])
            except (KeyError, TypeError):
                break
            if not early:
                break
            kept.append(strict_json.dumps(record) + "\n")
        write_whole(self.path, "".join(kept))

    def write(self, at: Mapping[str, int], record: Mapping[str, Any]) -> None:
        """Append a record of the epoch at position ``at``."""
        append_line(self.path, strict_json.dumps({"place": [at["stage"], at["epoch"]], **record}))
