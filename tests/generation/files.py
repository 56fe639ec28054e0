"""Files of questions, and what was made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def questions(path: Path, count: int, **more: str) -> Path:
    """Write sums as questions, with their answers as GSM8K has them."""
    rows = [
        {"question": f"What is {i} and {i + 1}?", "answer": f"{2 * i + 1}\n#### {2 * i + 1}", **more}
        for i in range(count)
    ]
    return lines(path, rows)


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
