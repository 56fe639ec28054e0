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
        guesses: classes with their probabilities in [0, 1], the likeliest first.
        problem: why it could not be read, and so has no guesses; "" where it could.
    """

    file: str
    line: int | None
    sample: str
    guesses: Sequence[tuple[str, float]] = ()
    problem: str = ""

    @property
    def where(self) -> str:
        """What messages call its place."""
        file = "standard input" if self.file == "-" else self.file
        return file if self.line is None else f"{file}, line {self.line}" if file else f"sample {self.line}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        guesses = [{"class": name, "probability": p} for name, p in self.guesses]
        found = {"file": self.file, "line": self.line, "input": self.sample, "classes": guesses}
        return {**found, "problem": self.problem} if self.problem else found
