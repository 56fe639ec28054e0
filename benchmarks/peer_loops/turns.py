"""Loops that take turns: each is a process of its own, and waits before every block of steps until it is let go.

Nothing of kdtool is imported here, for a loop may run under another interpreter.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Turns:
    """A loop's side of it. What the loop prints goes to standard error: standard output is for telling how it went.

    Args:
        steps: in a block. As many go before the first, and are not counted: everything is made and found then.
        device: one whose work is waited for.
    """

    def __init__(self, steps: int, device: str):
        self.steps, self.device, self.samples = steps, device, 0
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> None:
        """End a block, and return when the next begins.

        Raises:
            SystemExit: there is none.
        """
        peak = peak_mb(self.device)
        print(json.dumps({"samples": self.samples, "peak_mb": peak}), file=self._out, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self.samples = 0

    def over(self, batches: Sequence[Any], counts: Sequence[int]) -> Looped:
        """Return ready batches, to be gone through again and again in blocks; ``counts``: samples of each."""
        return Looped(self, batches, counts)


class Looped:
    """Ready batches without an end, in the place of a data loader."""

    def __init__(self, turns: Turns, batches: Sequence[Any], counts: Sequence[int]):
        self.turns, self.batches, self.counts = turns, batches, counts

    def __len__(self) -> int:
        return 1_000_000  # what a loop does once an epoch is not a step's cost

    def __iter__(self) -> Iterator[Any]:
        for step in range(len(self)):
            if step and step % self.turns.steps == 0:
                self.turns.wait()
            at = step % len(self.batches)
            self.turns.samples += self.counts[at]
            yield self.batches[at]


def peak_mb(device: str) -> float:
    """Return the most memory that this process has had, in MB: the card's where there is one; waits for the card."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, whose figure on Linux is also that of the process which this one was started from.
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M)
        if found:
            return round(int(found[1]) * 1024 / 1e6, 1)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def given() -> dict[str, Any]:
    """Return what the loop was started with: ``work``, ``path``, ``steps``, ``device``, ``precision``, and the like."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found
