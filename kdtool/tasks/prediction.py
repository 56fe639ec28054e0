"""What a network makes of a new input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """What a network makes of one new input.

    Attributes:
        file: where it is from; "-" for standard input, "" for a sample that was given from Python.
        line: its number there, from 1; None where the file is one sample.
        sample: it, as people read it.
        guesses: classes with their probabilities in [0, 1], the likeliest first; none of a network that writes.
        problem: why it could not be read, and so has no guesses; "" where it could.
        completion: what a network that writes goes on with; None: it tells classes.
        finished: the completion came to its end, and was not cut off.
    """

    file: str
    line: int | None
    sample: str
    guesses: Sequence[tuple[str, float]] = ()
    problem: str = ""
    completion: str | None = None
    finished: bool = True

    @property
    def where(self) -> str:
        """What messages call its place."""
        file = "standard input" if self.file == "-" else self.file
        return file if self.line is None else f"{file}, line {self.line}" if file else f"sample {self.line}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found: dict[str, Any] = {"file": self.file, "line": self.line, "input": self.sample}
        if self.completion is not None:
            return {**found, "completion": self.completion, "finished": self.finished}
        found["classes"] = [{"class": name, "probability": p} for name, p in self.guesses]
        return {**found, "problem": self.problem} if self.problem else found
