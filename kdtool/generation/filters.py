"""Which answers students learn from: filters in a fixed order, each of which says how many it left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.generation.overlap import Held, near_duplicates, repetition, words
from kdtool.generation.request import Answer
from kdtool.generation.rows import MARKS, Row, read_rows
from kdtool.generation.style import COMPLETION, Style
from kdtool.tasks.common.texts import Answer as Final
from kdtool.tasks.common.texts import answer_of

EXACT = "exact"
LABEL = "label"
"""What a style calls the part of an answer that is the final one."""


@dataclass(frozen=True)
class Candidate:
    """An answer that may become samples.

    Attributes:
        row: what it answers.
        number: which of the row's answers.
        answer: as the teacher gave it.
        values: its texts by name, as the style takes it apart; None: it is not of the form that was asked for.
        key: under which the answer is kept.
    """

    row: Row
    number: int
    answer: Answer
    values: dict[str, str] | None
    key: str = ""

    @property
    def text(self) -> str:
        """What the teacher wrote."""
        return self.answer.text

    @property
    def ending(self) -> str:
        """What holds the final answer."""
        return (self.values or {}).get(LABEL, self.text)


@dataclass(frozen=True)
class Wanted:
    """What is asked of answers.

    Attributes:
        answer: how final answers are found: "gsm8k", "exact", or a regular expression.
        keep_correct: the final answer has to be the known one.
        agree: it has to be the one that most of the row's answers come to, and so large a share of them; None: not.
        words: fewest and most of an answer; None: any.
        repetition: the largest share of an answer that may be there before in it; None: any.
        near_duplicates: how near answers to one question, and questions, may be; None: not the same.
        not_in: a file of questions that none may overlap with, nor with their known answers.
        keep_cut: take answers that were cut off.
    """

    answer: str | None = None
    keep_correct: bool = False
    agree: float | None = None
    words: tuple[int, int] | None = None
    repetition: float | None = None
    near_duplicates: float | None = None
    not_in: Path | None = None
    keep_cut: bool = False


Filter = Callable[[Sequence[Candidate]], list[Candidate]]


@dataclass
class Filters:
    """Filters in their order.

    Args:
        wanted: what is asked of answers.
        style: takes answers apart.

    Attributes:
        counts: once applied, "name", "about", "before" and "after" of each.

    Raises:
        InputError: an option needs another, or is wrong.
    """

    wanted: Wanted
    style: Style
    counts: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = self.wanted
        if wanted.answer is None and (wanted.keep_correct or wanted.agree is not None):
            flag = "--keep-correct" if wanted.keep_correct else "--agree"
            raise InputError(f"{flag} compares final answers: say how they are found, by --answer gsm8k|exact|PATTERN.")
        self.final = final_of(wanted.answer) if wanted.answer is not None else None
        test = read_rows(wanted.not_in, keep_marks=True).rows if wanted.not_in is not None else []
        self.held = Held(text for row in test for text in (row.question, row.answer) if text) if test else None

    def apply(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that pass all, in their order, and fill ``counts``."""
        kept, self.counts = list(candidates), []
        for name, about, keep in self._chosen():
            before = len(kept)
            kept = keep(kept)
            self.counts.append({"name": name, "about": about, "before": before, "after": len(kept)})
        return kept

    def _chosen(self) -> Iterable[tuple[str, str, Filter]]:
        wanted = self.wanted
        if not wanted.keep_cut:
            yield "cut", "cut off before they ended", _each(lambda one: one.answer.finish != "length")
        yield "form", "empty, or not of the form that was asked for", _each(lambda one: _sound(one.text, one.values))
        yield "marks", "hold marks of a chat template", _each(lambda one: MARKS.search(one.text) is None)
        if wanted.words is not None:
            low, high = wanted.words
            about = f"do not have {low} to {high} words"
            yield "words", about, _each(lambda one: low <= len(words(one.text)) <= high)
        if wanted.repetition is not None:
            most = wanted.repetition
            about = f"repeat more than {most:g} of themselves"
            yield "repetition", about, _each(lambda one: repetition(one.text) <= most)
        if self.final is not None and wanted.keep_correct:
            yield "correct", "come to another answer than the known one", _each(self._correct)
        if self.final is not None and wanted.agree is not None:
            yield "agree", f"are outvoted, or by less than {wanted.agree:g} of the votes", self._agreeing
        yield "duplicates", "were there before", _distinct
        if wanted.near_duplicates is not None:
            yield "near duplicates", f"are as near as {wanted.near_duplicates:g} to an earlier one", self._unlike
        if self.held is not None:
            held = self.held
            about = f"overlap with {wanted.not_in}"
            yield "test", about, _each(lambda one: not held.shares(one.row.question) and not held.shares(one.text))

    def _correct(self, one: Candidate) -> bool:
        assert self.final is not None
        known = self.final(one.row.answer) if one.row.answer is not None else None
        return known is not None and self.final(one.ending) == known

    def _agreeing(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return those of the majority: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning", 2023."""
        assert self.final is not None
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        found = [self.final(one.ending) for one in candidates]
        for one, final in zip(candidates, found, strict=True):
            if final is not None:
                votes[one.row.id][final] += 1
        kept = []
        for one, final in zip(candidates, found, strict=True):
            own = votes[one.row.id]
            if final is not None and own.most_common(1)[0][0] == final:
                share = own[final] / sum(own.values())
                kept += [one] if share >= (self.wanted.agree or 0) else []
        return kept

    def _unlike(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        threshold = self.wanted.near_duplicates
        assert threshold is not None
        questions = {one.row.question: None for one in candidates}
        old = {
            question
            for question, near in zip(questions, near_duplicates(list(questions), threshold), strict=True)
            if near
        }
        by_question: dict[str, list[Candidate]] = defaultdict(list)
        for one in candidates:
            by_question[one.row.question].append(one)
        left_out = set()
        for own in by_question.values():
            nearness = near_duplicates([one.text for one in own], threshold)
            left_out |= {id(one) for one, near in zip(own, nearness, strict=True) if near}
        return [one for one in candidates if one.row.question not in old and id(one) not in left_out]


def final_of(asked: str) -> Final:
    """Return what finds final answers, as ``answer_of`` does; "exact": the whole text, without case and white space.

    Raises:
        InputError: it is no regular expression.
    """
    if asked == EXACT:
        return lambda text: " ".join(text.casefold().split()).rstrip(".") or None
    return answer_of(asked)


def _each(keep: Callable[[Candidate], bool]) -> Filter:
    return lambda candidates: [one for one in candidates if keep(one)]


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    seen: dict[Hashable, Candidate] = {}
    for one in candidates:
        seen.setdefault((one.row.history, one.row.question, one.text), one)
    return list(seen.values())


def _sound(text: str, values: dict[str, str] | None) -> bool:
    """Tell whether an answer was read, and is a text that tokenizers take."""
    if values is None or not values[COMPLETION] or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True
