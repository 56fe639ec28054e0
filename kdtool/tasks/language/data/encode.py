"""Samples in tokens, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common.files.cells import Unfit
from kdtool.tasks.language.data.chats import Sample, Writer, Written
from kdtool.tasks.language.data.places import BEFORE, places_of
from kdtool.tasks.language.models.tokens import Encoded, Tokens

Marked = tuple[np.ndarray, np.ndarray]
"""A sample's (L,) tokens, and which of them are marked."""


@dataclass(frozen=True)
class Tokenized:
    """Samples in tokens, one after the other.

    Attributes:
        ids: (T,) int32, all samples' tokens.
        learnt: (T,) bool, tokens that are to be predicted; never a sample's first, which nothing stands before.
        starts: (N + 1,) int64, where each sample begins; its tokens are ``ids[starts[i]:starts[i + 1]]``.
        sources: (N,) int64, the sample that each is, or is a piece of.
        lost: (N,) int64, how many tokens each lost at its beginning.
        places: (T,) int64, where in its sample's answers each token begins, see ``kdtool.tasks.language.data.places``;
            None: nobody asked.
    """

    ids: np.ndarray = field(repr=False)
    learnt: np.ndarray = field(repr=False)
    starts: np.ndarray = field(repr=False)
    sources: np.ndarray = field(repr=False)
    lost: np.ndarray = field(repr=False)
    places: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, row: int) -> Marked:
        """Return a sample's (L,) tokens, and which of them are learnt."""
        return self.marked(row, self.learnt)

    def place(self, row: int) -> slice:
        """Return where a sample stands among all tokens."""
        return slice(self.starts[row], self.starts[row + 1])

    def marked(self, row: int, marks: np.ndarray) -> Marked:
        """Return a sample's (L,) tokens, and which of them are marked, given the (T,) marks of all."""
        part = self.place(row)
        return self.ids[part], marks[part]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each."""
        return np.diff(self.starts)


@dataclass
class Cuts:
    """What became of samples on their way into tokens.

    Attributes:
        samples: how many lost their beginning.
        tokens: how many tokens they lost.
        learnt: how many of these were to be learnt.
        bare: samples of which nothing is left to learn, so that they were left out.
        refused: (sample, why) that cannot be written.
    """

    samples: int = 0
    tokens: int = 0
    learnt: int = 0
    bare: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Cuts) -> None:
        """Count what became of further samples; ``refused`` is left as it is."""
        self.samples += other.samples
        self.tokens += other.tokens
        self.learnt += other.learnt
        self.bare += other.bare

    def notes(self, max_length: int) -> Iterator[str]:
        """Yield sentences for the user."""
        if self.samples:
            one = self.samples == 1
            lost = f", {self.learnt:,} of them to be learnt" if self.learnt else ""
            yield (
                f"{self.samples:,} sample{' was' if one else 's were'} longer than data.max_length={max_length} and "
                f"lost {self.tokens:,} tokens at {'its' if one else 'their'} beginning{lost}"
            )
        if self.bare:
            verbs = ("sample has", "was") if self.bare == 1 else ("samples have", "were")
            yield f"{self.bare:,} {verbs[0]} nothing to learn, and {verbs[1]} left out"


def tokenize(
    samples: Sequence[Sample], writer: Writer, max_length: int, placed: bool = False
) -> tuple[Tokenized, Cuts]:
    """Return samples in tokens, cut to a length, and what was cut.

    A text is put into tokens in one go, prompt and answer together. A token is learnt where its last character is. Of a
    sample that is too long the last tokens are kept. A plain text is cut into pieces, each of which begins with the
    last token of the one before, so that every token is predicted once.

    Args:
        samples: N of them.
        writer: makes them text.
        max_length: tokens of a sample at most.
        placed: find the tokens' places, too.
    """
    cuts, parts, sources, lost = Cuts(), list[Piece](), list[int](), list[int]()
    start = writer.tokens.start
    for number, written, encoded in _encoded(samples, writer, cuts):
        lead = [] if not written.whole and writer.by_template else start  # a template writes its own
        found = np.array([*lead, *encoded.ids], dtype=np.int32)
        wanted = np.concatenate([np.zeros(len(lead), dtype=bool), _in(written.learnt, encoded)])
        places = np.concatenate([np.full(len(lead), BEFORE), places_of(written, encoded.spans)]) if placed else None
        whole = Piece(found, wanted, places)
        for piece in _pieces(whole, max_length, written.whole, cuts):
            piece.learnt[:1] = False
            if piece.learnt.any():
                parts.append(piece)
                sources.append(number)
                lost.append(0 if written.whole else len(found) - len(piece.ids))
            elif not written.whole or len(found) < 2:
                cuts.bare += 1
    return joined(parts, sources, lost), cuts


def refuse_unknown(found: Tokenized, tokens: Tokens, classes: int, name: str) -> None:
    """Refuse samples with tokens that not all networks know.

    Args:
        found: the samples.
        tokens: their tokenizer.
        classes: V, the tokens that all know.
        name: of the data.

    Raises:
        InputError: naming one.
    """
    if len(found) and int(found.ids.max()) >= classes:
        many = int((found.ids >= classes).sum())
        raise InputError(
            f"--data {name}: {many:,} of its tokens, such as {tokens.by_number[int(found.ids.max())]!r}, are not in "
            f"the {classes:,} that all networks know. Use networks of one tokenizer."
        )


@dataclass(frozen=True)
class Piece:
    """A sample's tokens, or some of them in a row: as in ``Tokenized``."""

    ids: np.ndarray
    learnt: np.ndarray
    places: np.ndarray | None

    def of(self, part: slice) -> Piece:
        """Return some of them."""
        places = None if self.places is None else self.places[part]
        return Piece(self.ids[part], self.learnt[part].copy(), places)


def joined(parts: Sequence[Piece], sources: Sequence[int], lost: Sequence[int]) -> Tokenized:
    """Return samples one after the other; arguments as in ``Tokenized``, of N each."""
    starts = np.concatenate([[0], np.cumsum([len(each.ids) for each in parts], dtype=np.int64)]).astype(np.int64)
    places = [each.places for each in parts if each.places is not None]
    return Tokenized(
        np.concatenate([*(each.ids for each in parts), np.zeros(0, dtype=np.int32)]),
        np.concatenate([*(each.learnt for each in parts), np.zeros(0, dtype=bool)]),
        starts,
        np.array(sources, dtype=np.int64),
        np.array(lost, dtype=np.int64),
        np.concatenate(places) if places else None,
    )


def _encoded(samples: Sequence[Sample], writer: Writer, cuts: Cuts) -> Iterator[tuple[int, Written, Encoded]]:
    numbers, texts = [], []
    for number, sample in enumerate(samples):
        try:
            texts.append(writer(sample))
            numbers.append(number)
        except Unfit as why:
            cuts.refused.append((number, str(why)))
    yield from zip(numbers, texts, writer.tokens.encode([each.text for each in texts]), strict=True)


def _in(learnt: Sequence[tuple[int, int]], encoded: Encoded) -> np.ndarray:
    """Return which tokens' last character lies in one of the spans."""
    spans = np.array(encoded.spans, dtype=np.int64).reshape(-1, 2)
    found = np.zeros(len(spans), dtype=bool)
    for first, end in learnt:
        found |= (spans[:, 1] > first) & (spans[:, 1] <= end)
    return found & (spans[:, 1] > spans[:, 0])


def _pieces(sample: Piece, most: int, whole: bool, cuts: Cuts) -> Iterator[Piece]:
    count = len(sample.ids)
    if count <= most:
        yield sample.of(slice(None))
    elif whole:
        for first in range(0, count - 1, most - 1):
            yield sample.of(slice(first, first + most))
    else:
        cuts.samples += 1
        cuts.tokens += count - most
        cuts.learnt += int(sample.learnt[: count - most + 1].sum())
        yield sample.of(slice(count - most, None))
