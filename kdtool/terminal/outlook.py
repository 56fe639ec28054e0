"""How long the whole run still takes, told by what runs now."""

from __future__ import annotations

from collections.abc import Sequence


class Outlook:
    """What a run consists of.

    Args:
        parts: in order phase, stage and work, as ``Reporter.outlook`` has them.
    """

    def __init__(self, parts: Sequence[tuple[str, str, float]] = ()):
        self.parts = list(parts)

    def after(self, phase: str, stage: str, seconds: float) -> float | None:
        """Return the seconds that all after a stage takes; None where that is not known.

        Args:
            phase, stage: what runs now.
            seconds: what the whole of it takes.
        """
        places = [number for number, each in enumerate(self.parts) if each[:2] == (phase, stage)]
        if not places or self.parts[places[0]][2] <= 0:
            return None
        work = sum(each[2] for each in self.parts[places[0] + 1 :])
        return seconds * work / self.parts[places[0]][2]
