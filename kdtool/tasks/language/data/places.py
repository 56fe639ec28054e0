"""Where in a sample's answers its tokens begin: what one tokenizer's tokens have in common with another's.

Two networks that have read the same text predict what follows it, whatever tokens the text was cut into. So tokens of
two tokenizers are comparable where they begin at the same character of the same answer. White space in front of a word
belongs to it with some tokenizers, is a token of its own with others, and is left out by a third kind: a token begins
at its first character that is none, unless it is white space throughout.

A place is one number, that of the answer times ``LONG`` and that of the character in it. What ends an answer begins
behind its last character. Places never fall from token to token: a token that begins where none is to be found (inside
of a template's own text, or at a character that an earlier token has begun) has the place of the token before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdtool.tasks.language.data.chats import Written

LONG = 1 << 40
"""More characters than an answer has."""

BEFORE = np.int64(-1)
"""The place of what stands before all answers."""


def places_of(written: Written, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the (L,) int64 places of a text's tokens.

    Args:
        written: the text, and where its answers stand.
        spans: of each token the first character, and one past the last.
    """
    found = np.full(len(spans), BEFORE, dtype=np.int64)
    if not len(spans):
        return found
    begins = np.array([_begin(written.text, *span) for span in spans], dtype=np.int64)
    real = np.array([end > first for first, end in spans])
    white = np.array([written.text[at : at + 1].isspace() for at in begins])
    for number, (first, text_end, end) in enumerate(written.answers):
        # Some templates write a space before what ends an answer.
        inside = real & (begins >= first) & (begins < end) & ~(white & (begins >= text_end))
        found[inside] = number * LONG + np.minimum(begins[inside], text_end) - first
    return np.maximum.accumulate(found)


def _begin(text: str, first: int, end: int) -> int:
    """Return the first character of a span that is no white space, or its first."""
    return next((at for at in range(first, end) if not text[at].isspace()), first)


def own_places(places: np.ndarray) -> np.ndarray:
    """Return which of (L,) tokens in a row have a place of their own; of the first it is not known, and so it has none.

    Nothing is predicted there: a network has to have read something.
    """
    return np.concatenate([np.zeros(min(1, len(places)), dtype=bool), places[1:] > places[:-1]])
