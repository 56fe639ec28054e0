"""The samples of a student in the tokens of a teacher that cuts text otherwise, and which rows of both belong together.

Boizard et al., "Towards Cross-Tokenizer Distillation", TMLR 2024, compare the i-th token of an answer with the i-th,
whatever the two have read by then. Here rows belong together where both have read the same text of the answer and are
to predict what follows: where their tokens begin at the same character, see ``kdtool.tasks.language.data.places``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdtool.tasks.language.data.chats import Sample, Writer
from kdtool.tasks.language.data.encode import Piece, Tokenized, joined, tokenize
from kdtool.tasks.language.data.places import own_places
from kdtool.tasks.language.models.tokens import Tokens

UNCUT = 1 << 40
"""More tokens than a sample has."""


@dataclass(frozen=True)
class Twin:
    """Samples in another network's tokens.

    Attributes:
        tokens: its tokenizer.
        size: V', how many tokens the network knows.
        samples: row by row the student's, by the same numbers.
        met: (T,) bool, of the student's tokens those that are learnt and begin where one of the twin's does.
        meets: (T',) bool, those of the twin's; of each sample as many, in the same order.
        refused: samples that the network's chat template cannot write.
    """

    tokens: Tokens
    size: int
    samples: Tokenized = field(repr=False)
    met: np.ndarray = field(repr=False)
    meets: np.ndarray = field(repr=False)
    refused: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return int(self.samples.lengths.max(initial=1))


def twin_of(student: Tokenized, raw: Sequence[Sample], writer: Writer, size: int, most: int | None) -> Twin:
    """Put a student's samples into a teacher's tokens.

    What the student reads of a plain text the teacher reads, too, from the token on in which its first begins. Of a
    chat that lost its beginning the teacher's loses as large a share, for it is written by another template.

    Args:
        student: its samples, with places.
        raw: what they are of, by ``Tokenized.sources``.
        writer: of the teacher: its tokenizer and template.
        size: V', how many tokens it knows.
        most: tokens that it can read at once; of a longer sample the last are kept. None: any number.
    """
    assert student.places is not None
    wanted = np.unique(student.sources)
    theirs, cuts = tokenize([raw[each] for each in wanted.tolist()], writer, UNCUT, placed=True)
    rows = dict(zip(wanted[theirs.sources].tolist(), range(len(theirs)), strict=True))
    parts, met, meets = list[Piece](), np.zeros(len(student.ids), dtype=bool), list[np.ndarray]()
    earlier = -1
    for number, source in enumerate(student.sources.tolist()):
        own = student.place(number)
        if source not in rows:
            parts.append(Piece(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=bool), None))
            meets.append(np.zeros(1, dtype=bool))
            continue
        whole = theirs.place(rows[source])
        assert theirs.places is not None
        lost, places = int(student.lost[number]), student.places[own]
        if isinstance(raw[source], str):
            window = _piece(theirs.places[whole], None if source != earlier else int(places[0]), int(places[-1]))
        else:
            count = whole.stop - whole.start
            window = slice(-(-count * lost // (lost + len(places))), count)
        earlier = source
        window = slice(max(window.start, window.stop - (most or UNCUT)), window.stop)
        ids, learnt, begun = (each[whole][window] for each in (theirs.ids, theirs.learnt, theirs.places))
        parts.append(Piece(ids, np.concatenate([[False], learnt[1:]]), None))
        ours, other = np.flatnonzero(student.learnt[own] & own_places(places)), np.flatnonzero(own_places(begun))
        _, at, there = np.intersect1d(places[ours], begun[other], assume_unique=True, return_indices=True)
        met[own.start + ours[at]] = True
        meets.append(np.isin(np.arange(len(ids)), other[there]))
    samples = joined(parts, student.sources.tolist(), [0] * len(parts))
    joined_meets = np.concatenate([*meets, np.zeros(0, dtype=bool)])
    return Twin(writer.tokens, size, samples, met, joined_meets, len(cuts.refused))


def _piece(begun: np.ndarray, first: int | None, last: int) -> slice:
    """Return which of a text's tokens a piece of it is, from a place (None: the text's beginning) through another."""
    start = 0 if first is None else max(0, int(np.searchsorted(begun, first, side="right")) - 1)
    return slice(start, max(start + 1, int(np.searchsorted(begun, last, side="right"))))


def met_by_all(samples: Tokenized, rows: np.ndarray, twins: Mapping[str, Twin]) -> np.ndarray:
    """Return (R,) bool: which rows of a loss all twins have tokens for.

    Args:
        samples: the student's.
        rows: the samples whose rows are asked for, in order.
        twins: one or more.
    """
    both = np.logical_and.reduce([each.met for each in twins.values()])
    found = [both[part][samples.learnt[part]] for part in map(samples.place, rows.tolist())]
    return np.concatenate([*found, np.zeros(0, dtype=bool)])
