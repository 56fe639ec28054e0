"""What a kind of damage to samples is asked for by: its name and a severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from kdtool.errors import InputError, did_you_mean

D = TypeVar("D", bound="Damage")

USUAL_SEVERITY = 3


@dataclass(frozen=True)
class Damage:
    """One kind of damage; a task says how it is done.

    Attributes:
        kind: a key of ``strengths``.
        severity: 1 to 5.
        seed: of what is random about it, together with the sample's row.
    """

    kind: str
    severity: int = USUAL_SEVERITY
    seed: int = 0

    strengths: ClassVar[Mapping[str, Sequence[float]]]
    """Of every kind how strong each severity is."""

    @property
    def strength(self) -> float:
        """How strong it is, in its kind's own measure."""
        return self.strengths[self.kind][self.severity - 1]

    @classmethod
    def parse(cls: type[D], text: str) -> D:
        """Return what ``kind`` or ``kind:severity`` says.

        Raises:
            InputError: another kind, or a severity outside 1 to 5.
        """
        kind, colon, severity = text.partition(":")
        if kind not in cls.strengths:
            raise InputError(f"--corrupt {text}: there is no {kind!r}. {did_you_mean(kind, cls.strengths)}")
        if colon and severity not in ("1", "2", "3", "4", "5"):
            raise InputError(f"--corrupt {text}: the severity is a whole number from 1 to 5, such as {kind}:3.")
        return cls(kind, int(severity) if colon else USUAL_SEVERITY)
