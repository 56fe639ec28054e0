"""A server's tokens beside the student's: matched by what they stand for and where it stands in the answer.

Both are of one vocabulary, so that what is said of a server's token holds for the student's. Only where the same text
was cut in another way, or more stands in front of it, the server has said nothing of a token of the student's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import expm1, fsum, log
from typing import Any

import numpy as np

from kdtool.cache.part import NOTHING
from kdtool.errors import InputError
from kdtool.generation.request import Place

_NUMBERED = re.compile(r"token_id:(\d+)")
"""A token as vLLM names it with ``return_tokens_as_token_ids``."""

STRANGE, KNOWN = 0.001, 0.9
"""The largest share of a server's tokens that the student may not have, and the smallest share of the student's own in
answers that the server has to have written: beyond, it is another vocabulary."""

Told = dict[int, float]
"""Log-probabilities by the student's token."""


@dataclass
class Matching:
    """Matches answers, and counts what came of it.

    Args:
        bytes_of: what each of the student's tokens stands for.
        special: those that are no text.
        size: V.

    Attributes:
        listed: tokens that the server named, as often as it did.
        strange: those that the student does not have.
        written: the student's tokens in answers with log-probabilities, but for special ones.
        met: those that the server wrote in the same place.
    """

    bytes_of: Mapping[int, bytes]
    special: frozenset[int]
    size: int
    listed: int = 0
    strange: Counter[str] = field(default_factory=Counter)
    written: int = 0
    met: int = 0

    def __post_init__(self) -> None:
        self._numbers: dict[str | bytes, list[int] | None] = {}
        self._by_bytes: dict[bytes, list[int]] = {}
        for number, data in sorted(self.bytes_of.items(), reverse=True):  # a byte for itself comes after its character
            if number < self.size:
                self._by_bytes.setdefault(data, []).append(number)

    def answer(self, ids: Sequence[int], places: Sequence[Place]) -> list[Told | None]:
        """Return what a server said of each token of an answer; None: nothing.

        Args:
            ids: the answer as the student reads it, special tokens behind it included.
            places: as the server wrote it.
        """
        end = len(ids)
        while end and ids[end - 1] in self.special:
            end -= 1
        own = [self.bytes_of[each] for each in ids]
        theirs = [self._bytes(token) for token, _, _ in places]
        whole, text = b"".join(theirs), b"".join(own[:end])
        at = whole.find(text.strip())
        told: list[Told | None] = [None] * len(ids)
        self.written += end
        if at < 0 or not text.strip() or whole.find(text.strip(), at + 1) >= 0:
            for place in places:
                self._told(place, None)  # what is strange counts all the same
            return told
        at -= len(text) - len(text.lstrip())
        starts = {first: number for number, first in enumerate(_starts(theirs)) if theirs[number]}
        for number, first in enumerate(_starts(own)):
            there = starts.pop(at + first, None)
            if there is not None and theirs[there] == own[number]:
                told[number] = self._told(places[there], ids[number])
                self.met += number < end
        for there in starts.values():
            self._told(places[there], None)
        return told

    def check(self, name: str) -> None:
        """Refuse a server of another vocabulary.

        Raises:
            InputError: too many of its tokens are none of the student's, or answers were cut otherwise.
        """
        strange = sum(self.strange.values())
        if strange > STRANGE * self.listed:
            some = ", ".join(repr(token) for token, _ in self.strange.most_common(3))
            why = f"{strange:,} of the {self.listed:,} tokens that it names are none of the student's, such as {some}"
        elif self.met < KNOWN * self.written:
            why = f"of the student's {self.written:,} tokens in its answers it wrote {self.met:,}, the others otherwise"
        else:
            return
        raise InputError(
            f"teacher {name} has another vocabulary than the student: {why}. Take a student of the teacher's family, "
            "or its tokenizer (student.tokenizer=FOLDER, a student from scratch), or learn the text alone (--method "
            "none, or step_by_step of a set in the style rationale)."
        )

    def _told(self, place: Place, own: int | None) -> Told:
        """Return the log-probabilities of a place by the student's token; ``own`` is the one that was written."""
        token, value, likeliest = place
        found: Told = {} if own is None else {own: value}
        for each, log_p in ((token, value), *likeliest):
            number = self._number(each, own)
            if number is not None:
                found.setdefault(number, log_p)
        return found

    def _number(self, token: Any, own: int | None) -> int | None:
        key = token if isinstance(token, str) else bytes(token)
        if key not in self._numbers:
            self._numbers[key] = self._find(key)
        several = self._numbers[key]
        if several is None:
            return None
        self.listed += 1
        if not several:
            self.strange[str(token)] += 1
            return None
        return own if own in several else several[0]

    def _find(self, token: str | bytes) -> list[int] | None:
        """Return the student's tokens that are a server's; None: it does not say which it is."""
        numbered = _NUMBERED.fullmatch(token) if isinstance(token, str) else None
        if numbered:
            return [int(numbered[1])] if int(numbered[1]) < self.size else []
        data = self._bytes(token)
        if not data or "\ufffd".encode() in data:  # a piece of a character, from a server that names no bytes
            return None
        return self._by_bytes.get(data, [])

    def _bytes(self, token: Any) -> bytes:
        if not isinstance(token, str):
            return bytes(token)
        numbered = _NUMBERED.fullmatch(token)
        data = self.bytes_of.get(int(numbered[1])) if numbered else None
        return token.encode(errors="replace") if data is None else data


def _starts(texts: Sequence[bytes]) -> list[int]:
    """Return where each of several texts in a row begins."""
    return [0, *accumulate(map(len, texts))][: len(texts)]


@dataclass(frozen=True)
class Rows:
    """What is known of rows, of each as much as was said.

    Attributes:
        index: (R, T) int32, tokens; those beyond what is known repeat the first.
        values: (R, T) float32, their log-probabilities.
        rest: (R,) float32, the others' together.
        known: (R,) int64, how many tokens are known.
    """

    index: np.ndarray
    values: np.ndarray
    rest: np.ndarray
    known: np.ndarray


def rows_of(told: Sequence[Told | None], labels: Sequence[int]) -> Rows:
    """Return rows; of one of which nothing was said, that its label is certain: the text says so.

    Args:
        told: R of them.
        labels: the tokens that are there.
    """
    found = [each or {label: 0.0} for each, label in zip(told, labels, strict=True)]
    width = max(map(len, found), default=1)
    index = np.zeros((len(found), width), dtype=np.int32)
    values = np.zeros((len(found), width), dtype=np.float32)
    for row, each in enumerate(found):
        index[row], values[row] = next(iter(each)), next(iter(each.values()))
        index[row, : len(each)], values[row, : len(each)] = list(each), list(each.values())
    rest = np.array([_rest(each) for each in found], dtype=np.float32)
    return Rows(index, values, rest, np.array([len(each) for each in found], dtype=np.int64))


def _rest(told: Told) -> float:
    """Return the log of what the known tokens leave of the probability, next to nothing where rounding leaves none."""
    if max(told.values()) >= 0.0:
        return -NOTHING
    # One likely token leaves less than 1 - p shows.
    largest = max(told, key=lambda each: told[each])
    left = -expm1(told[largest]) - fsum(np.exp(value) for token, value in told.items() if token != largest)
    return log(left) if left > 1e-12 else -NOTHING
