"""Texts made worse, the same way every time: typos, upper and lower case, missing words, at five severities.

What a stronger severity changes contains what a weaker one does. The kinds of typos are those that Damerau, "A
Technique for Computer Detection and Correction of Spelling Errors", CACM 1964, found most misspellings to be of,
without those that need a keyboard.
"""

from __future__ import annotations

import re

import numpy as np

from kdtool.randomness import key_of
from kdtool.tasks.common.corruption import Damage
from kdtool.tasks.text.models.tokens import Text

STRENGTHS = {
    "typos": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of words with a slip
    "case": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of letters in the other case
    "drop": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of words left out
}

_WORD = re.compile(r"(\s+)")


class Corruption(Damage):
    """One kind of damage: "typos", "case" or "drop"."""

    strengths = STRENGTHS

    def __call__(self, text: Text, row: int) -> Text:
        """Return the text, or the pair, made worse: a function of text, row and this corruption; never empty."""
        draw = np.random.Generator(np.random.Philox(key_of("corrupt text", self.kind, self.seed, row)))
        change = {"typos": _misspelt, "case": _flipped, "drop": _thinned}[self.kind]
        strength = self.strength
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
