"""Samples of a stream put into tokens as they pass, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kdtool.engine.processes import from_all
from kdtool.errors import InputError
from kdtool.tasks.language.data.chats import Sample, Writer
from kdtool.tasks.language.data.encode import Cuts, Marked, refuse_unknown, tokenize
from kdtool.tasks.language.data.twin import met_by_all, twin_of


class Ready(NamedTuple):
    """A sample, or a piece of a text, in tokens.

    Attributes:
        own: its tokens, and which are learnt.
        beside: by key, for a teacher of other tokens: the sample in these, and which meet the student's; and the
            student's, and which meet these.
        taught: (R,) bool, the rows that all such teachers speak of; None: there are none.
    """

    own: Marked
    beside: dict[str, tuple[Marked, Marked]]
    taught: np.ndarray | None


@dataclass(frozen=True)
class Other:
    """A teacher of other tokens.

    Attributes:
        writer: its tokenizer and template.
        size: V', how many tokens it knows.
        name: its model.
    """

    writer: Writer
    size: int
    name: str


@dataclass(frozen=True)
class Encoder:
    """Puts samples into tokens, each by itself, as those that are held are.

    Attributes:
        writer: the student's.
        max_length: tokens of a sample at most.
        classes: V, the tokens that all networks know.
        name: of the data, for messages.
        others: by key, teachers of other tokens.
    """

    writer: Writer
    max_length: int
    classes: int
    name: str
    others: Mapping[str, Other] = field(default_factory=dict)

    def __call__(self, samples: Sequence[Sample]) -> tuple[list[list[Ready]], Cuts]:
        """Return of each sample its pieces, none where nothing of it is to be learnt; and what was cut.

        Raises:
            InputError: a network has no word vector for a token.
        """
        found, cuts = tokenize(samples, self.writer, self.max_length, placed=bool(self.others))
        refuse_unknown(found, self.writer.tokens, self.classes, self.name)
        twins = {
            key: twin_of(found, samples, other.writer, other.size, other.writer.tokens.longest)
            for key, other in self.others.items()
            if len(found)
        }
        for key, twin in twins.items():
            if int(twin.samples.ids.max(initial=0)) >= twin.size:
                raise InputError(
                    f"--data {self.name}: teacher {self.others[key].name} has no word vector for some of its tokens "
                    "there."
                )
        pieces: list[list[Ready]] = [[] for _ in samples]
        for row, source in enumerate(found.sources.tolist()):
            beside = {
                key: (twin.samples.marked(row, twin.meets), found.marked(row, twin.met)) for key, twin in twins.items()
            }
            taught = met_by_all(found, np.array([row]), twins) if twins else None
            pieces[source].append(Ready(found[row], beside, taught))
        return pieces, cuts


def chosen(pieces: Sequence[Ready], piece: int, of: int, turn: int) -> Ready:
    """Return the piece that stands for a text in one of its lane's passes.

    A text that has more pieces than it was counted as shows others of them in the next pass, until all had their turn.

    Args:
        pieces: all that there are, one or more.
        piece, of: see ``kdtool.tasks.language.data.shards.Passing``.
        turn: which pass.
    """
    step = turn * of if len(pieces) > of else 0
    return pieces[(piece + step) % len(pieces)]


@dataclass
class Passed:
    """What became of a stream's samples, counted as they pass in this process.

    Attributes:
        max_length: ``data.max_length``; a sample's rows are numbered from its own number times this on.
        samples: how many were put into tokens.
        cuts: what was cut.
    """

    max_length: int = 0
    samples: int = 0
    cuts: Cuts = field(default_factory=Cuts)

    def sentence(self) -> str | None:
        """Return what was cut, of all processes, which ask for it together; None: nothing was."""
        total, cuts = 0, Cuts()
        for samples, each in from_all((self.samples, self.cuts)):
            total += samples
            cuts.add(each)
        notes = list(cuts.notes(self.max_length))
        if not notes:
            return None
        stood = "; others stand in for those left out" if cuts.bare else ""
        return f"of {total:,} samples that passed since the run was last started, {', '.join(notes)}{stood}"
