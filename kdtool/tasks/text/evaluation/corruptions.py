"""Texts made worse, the same way every time: typos, upper and lower case, missing words, at five severities.

What a stronger severity changes contains what a weaker one does. The kinds of typos are those that Damerau, "A
Technique for Computer Detection and Correction of Spelling Errors", CACM 1964, found most misspellings to be of,
without those that need a keyboard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from kdtool.errors import InputError, did_you_mean
from kdtool.randomness import key_of
from kdtool.tasks.text.models.tokens import Text

STRENGTHS = {
    "typos": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of words with a slip
    "case": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of letters in the other case
    "drop": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of words left out
}
USUAL_SEVERITY = 3

_WORD = re.compile(r"(\s+)")


@dataclass(frozen=True)
class Corruption:
    """One kind of damage.

    Attributes:
        kind: "typos", "case" or "drop".
        severity: 1 to 5.
        seed: of what is hit, together with the sample's row.
    """

    kind: str
    severity: int = USUAL_SEVERITY
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Corruption:
        """Return what ``kind`` or ``kind:severity`` says.

        Raises:
            InputError: another kind, or a severity outside 1 to 5.
        """
        kind, colon, severity = text.partition(":")
        if kind not in STRENGTHS:
            raise InputError(f"--corrupt {text}: there is no {kind!r}. {did_you_mean(kind, STRENGTHS)}")
        if colon and severity not in ("1", "2", "3", "4", "5"):
            raise InputError(f"--corrupt {text}: the severity is a whole number from 1 to 5, such as {kind}:3.")
        return cls(kind, int(severity) if colon else USUAL_SEVERITY)

    def __call__(self, text: Text, row: int) -> Text:
        """Return the text, or the pair, made worse: a function of text, row and this corruption; never empty."""
        draw = np.random.Generator(np.random.Philox(key_of("corrupt text", self.kind, self.seed, row)))
        change = {"typos": _misspelt, "case": _flipped, "drop": _thinned}[self.kind]
        strength = STRENGTHS[self.kind][self.severity - 1]
        if isinstance(text, str):
            return change(text, strength, draw)
        return change(text[0], strength, draw), change(text[1], strength, draw)


def _misspelt(text: str, strength: float, draw: np.random.Generator) -> str:
    """Swap two neighbours, leave one letter out or double one, in so many of the words of two letters or more."""
    pieces = _WORD.split(text)
    chance, how, where = draw.random((3, len(pieces)))
    for i, piece in enumerate(pieces):
        if chance[i] >= strength or len(piece) < 2 or piece.isspace():
            continue
        at = int(where[i] * (len(piece) - 1))
        first, second = piece[at], piece[at + 1]
        slips = second + first, first, first + first + second
        pieces[i] = piece[:at] + slips[int(how[i] * 3)] + piece[at + 2 :]
    return "".join(pieces)


def _flipped(text: str, strength: float, draw: np.random.Generator) -> str:
    chance = draw.random(len(text))
    return "".join(letter.swapcase() if p < strength else letter for letter, p in zip(text, chance, strict=True))


def _thinned(text: str, strength: float, draw: np.random.Generator) -> str:
    words = text.split()
    chance = draw.random(len(words))
    kept = [word for word, p in zip(words, chance, strict=True) if p >= strength]
    return " ".join(kept or [words[int(chance.argmax())]])
