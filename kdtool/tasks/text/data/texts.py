"""Numbered texts, single ones or pairs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The samples of a data set by row.

    Attributes:
        first: N texts.
        second: N texts that each form a pair with the one of ``first``; None where texts stand alone.
    """

    first: list[str]
    second: list[str] | None = None

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, row: int) -> str | tuple[str, str]:
        """Return text ``row``, or the pair."""
        return self.first[row] if self.second is None else (self.first[row], self.second[row])

    def join(self, more: Texts) -> Texts:
        """Return these texts and then others of the same kind, whose rows follow on.

        Raises:
            ValueError: one has pairs and the other has none.
        """
        if self.second is None and more.second is None:
            return Texts(self.first + more.first)
        if self.second is None or more.second is None:
            raise ValueError("pairs of texts and single ones do not join")
        return Texts(self.first + more.first, self.second + more.second)

    def key(self, row: int) -> tuple[str, ...]:
        """Return what is equal for texts that differ in white space only."""
        sample = self[row]
        return tuple(" ".join(text.split()) for text in ([sample] if isinstance(sample, str) else sample))
