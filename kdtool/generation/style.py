"""What a teacher is asked, and what a student is to learn of its answers: templates in a file of YAML.

Names in braces are replaced once, by the texts of a row. What they hold is never read as a template, so that a row
cannot add turns, change roles or name other texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, did_you_mean
from kdtool.generation.request import Messages
from kdtool.generation.rows import ROLES, Row
from kdtool.recipe.yaml_file import MAX_BYTES, parse

FOLDER = Path(__file__).parent / "styles"
COMPLETION, REASONING, TASKS, TURNS = "completion", "reasoning", "tasks", "history"
"""Names besides those of rows: what the teacher wrote, and what it thought before, where it tells that apart; tasks of
a wave; and, in a list of messages, earlier turns."""

_NAME = re.compile(r"\{\{(\w+)\}\}|\{([A-Za-z_]\w*)\}")
_KEYS = {"about", "paper", "messages", "demonstrations", "reads", "samples", "waves"}


@dataclass(frozen=True)
class Turn:
    """A message whose content names texts in braces; names in double braces are themselves."""

    role: str
    content: str

    def filled(self, values: Mapping[str, str]) -> tuple[str, str]:
        """Return it with the texts in their places."""
        return self.role, _NAME.sub(lambda found: f"{{{found[1]}}}" if found[1] else values[found[2]], self.content)

    @property
    def names(self) -> set[str]:
        """The texts that it names."""
        return {found[2] for found in _NAME.finditer(self.content) if found[2]}


@dataclass(frozen=True)
class Each:
    """Messages that are there once for each demonstration."""

    turns: tuple[Turn, ...]


Part = Turn | Each | str
"""Of a list of messages; ``TURNS`` stands for a row's earlier turns."""


@dataclass(frozen=True)
class Sample:
    """What a student learns from one answer.

    Attributes:
        kind: such as "label" or "rationale".
        weight: how much it counts.
        parts: its messages, the assistant's to be learnt.
    """

    kind: str
    weight: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Waves:
    """How new tasks are made up from those that are there.

    Attributes:
        parts: what the teacher is asked, with ``{tasks}``.
        shown: tasks in a request.
        own: how many of these may be made up ones.
        item: what finds new tasks in an answer: the group "instruction" of each match.
        rouge_l: the nearest that a new task may be to any that is kept.
        words: fewest and most of a task.
        without: words that no task may hold.
    """

    parts: tuple[Part, ...]
    shown: int
    own: int
    item: re.Pattern[str]
    rouge_l: float
    words: tuple[int, int]
    without: frozenset[str]


@dataclass(frozen=True)
class Style:
    """A style of asking.

    Attributes:
        name: the file's, without its type.
        text: the file.
        about, paper: for people.
        parts: what the teacher is asked.
        samples: what is learnt.
        demonstrations: those that the file holds.
        draw: how many are drawn from a file of them instead.
        reads: what of an answer the named groups are, None: it is not taken apart.
        waves: how tasks are made up; None: they are the data's.
    """

    name: str
    text: str
    about: str
    paper: str
    parts: tuple[Part, ...]
    samples: tuple[Sample, ...]
    demonstrations: tuple[Mapping[str, str], ...] = ()
    draw: int = 0
    reads: re.Pattern[str] | None = None
    waves: Waves | None = None

    @property
    def names(self) -> set[str]:
        """The texts that a row has to have."""
        given = {COMPLETION, REASONING, *(self.reads.groupindex if self.reads is not None else ())}
        return (_names(self.parts) | self._learnt) - given

    @property
    def _learnt(self) -> set[str]:
        return {name for sample in self.samples for name in _names(sample.parts)}

    def ask(self, row: Row, demonstrations: Sequence[Mapping[str, str]] = ()) -> Messages:
        """Return what the teacher is asked about a row."""
        return tuple(_filled(self.parts, row, row.values, [*self.demonstrations, *demonstrations]))

    def read(self, completion: str, reasoning: str = "") -> dict[str, str] | None:
        """Return the texts of an answer by name, None where it is not of the form that was asked for."""
        values = {COMPLETION: completion, REASONING: reasoning}
        if REASONING in self._learnt and not reasoning:
            return None
        if self.reads is None:
            return values
        found = self.reads.search(completion)
        if found is None or not all(text and text.strip() for text in found.groupdict().values()):
            return None
        return values | {name: text.strip() for name, text in found.groupdict().items()}

    def write(
        self, row: Row, values: Mapping[str, str], demonstrations: Sequence[Mapping[str, str]] = ()
    ) -> list[dict[str, Any]]:
        """Return what is learnt of an answer: "kind", "weight" and "messages" each."""
        both, demonstrated = {**row.values, **values}, [*self.demonstrations, *demonstrations]
        return [
            {
                "kind": sample.kind,
                "weight": sample.weight,
                "messages": [
                    {"role": role, "content": content}
                    for role, content in _filled(sample.parts, row, both, demonstrated)
                ],
            }
            for sample in self.samples
        ]


def _filled(
    parts: Sequence[Part], row: Row, values: Mapping[str, str], demonstrations: Sequence[Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    for part in parts:
        if isinstance(part, Turn):
            yield part.filled(values)
        elif isinstance(part, Each):
            yield from (turn.filled(each) for each in demonstrations for turn in part.turns)
        else:
            yield from row.history


def _names(parts: Sequence[Part]) -> set[str]:
    return {name for part in parts if isinstance(part, Turn) for name in part.names}


def built_in() -> list[str]:
    """Return the names of the styles that kdtool brings."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def style_of(name: str) -> Style:
    """Return a style by its name, or from a file.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = FOLDER / f"{name}.yaml" if name in built_in() else Path(name)
    try:
        if path.suffix not in (".yaml", ".yml"):
            raise FileNotFoundError
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"--style {name}: it is no text in UTF-8.") from error
    except OSError as error:
        valid = ", ".join(built_in())
        raise InputError(
            f"--style {name}: there is no such style or file. Valid: {valid}, or a .yaml file like those in {FOLDER}."
        ) from error
    return _Reader(str(path) if path.parent != FOLDER else name).style(path.stem, text)


class _Reader:
    """Checks what a file holds; ``where`` is its name in messages."""

    def __init__(self, where: str):
        self.where = where

    def style(self, name: str, text: str) -> Style:
        found = self._mapping(parse(text, self.where), "the style", _KEYS)
        shown = found.get("demonstrations") or []
        draw = 0
        if isinstance(shown, dict):
            draw, shown = self._number(self._mapping(shown, "demonstrations", {"draw"}).get("draw"), "draw", 1), []
        demonstrations = tuple(self._texts(each, f"demonstration {i}") for i, each in enumerate(shown, 1))
        reads = self._pattern(found["reads"], "reads") if found.get("reads") else None
        parts = self._parts(found.get("messages"), "messages", last="user")
        samples = self._list(found.get("samples"), "samples")
        style = Style(
            name, text, str(found.get("about") or ""), str(found.get("paper") or ""), parts,
            tuple(self._sample(each, i) for i, each in enumerate(samples, 1)), demonstrations, draw, reads,
            self._waves(found["waves"]) if found.get("waves") else None,
        )  # fmt: skip
        for each in demonstrations:
            lacking = self._wanted_of_demonstrations(style) - set(each)
            if lacking:
                raise self._wrong(f"a demonstration has no {sorted(lacking)[0]!r}")
        return style

    @staticmethod
    def _wanted_of_demonstrations(style: Style) -> set[str]:
        every = [*style.parts, *(part for sample in style.samples for part in sample.parts)]
        return {name for part in every if isinstance(part, Each) for turn in part.turns for name in turn.names}

    def _sample(self, found: Any, number: int) -> Sample:
        given = self._mapping(found, f"sample {number}", {"kind", "weight", "messages"})
        weight = given.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < 1e6:
            raise self._wrong(f"sample {number}: weight is {weight!r}; a number above 0 is wanted")
        return Sample(
            str(given.get("kind") or "answer"), float(weight), self._parts(given.get("messages"), "sample", "assistant")
        )

    def _waves(self, found: Any) -> Waves:
        keys = {"messages", "shown", "own", "item", "rouge_l", "words", "without"}
        given = self._mapping(found, "waves", keys)
        item = self._pattern(given.get("item"), "waves.item")
        if "instruction" not in item.groupindex:
            raise self._wrong("waves.item has no group (?P<instruction>...)")
        nearest = given.get("rouge_l", 0.7)
        words = given.get("words", [3, 150])
        if not isinstance(nearest, (int, float)) or not 0 < nearest <= 1:
            raise self._wrong(f"waves.rouge_l is {nearest!r}; a number in (0, 1] is wanted")
        if not isinstance(words, list) or len(words) != 2 or not all(isinstance(each, int) for each in words):
            raise self._wrong("waves.words is no list of the fewest and the most")
        shown = self._number(given.get("shown", 8), "waves.shown", 1)
        own = self._number(given.get("own", 2), "waves.own", 0)
        without = frozenset(str(word).lower() for word in given.get("without") or [])
        parts = self._parts(given.get("messages"), "waves", last="user")
        return Waves(parts, shown, min(own, shown), item, float(nearest), (words[0], words[1]), without)

    def _parts(self, found: Any, what: str, last: str) -> tuple[Part, ...]:
        parts = tuple(self._part(each, what) for each in self._list(found, f"{what}: messages"))
        end = parts[-1]
        if not isinstance(end, Turn) or end.role != last:
            raise self._wrong(f"{what}: the last message has to be of the role {last!r}")
        return parts

    def _part(self, found: Any, what: str) -> Part:
        if found == TURNS:
            return TURNS
        given = self._mapping(found, f"{what}: a message", {"role", "content", "for", "messages"})
        if "for" in given:
            if given["for"] != "demonstrations":
                raise self._wrong(f"{what}: for: {given['for']!r}; valid: demonstrations")
            turns = [self._part(each, what) for each in self._list(given.get("messages"), f"{what}: messages")]
            if not all(isinstance(turn, Turn) for turn in turns):
                raise self._wrong(f"{what}: messages for demonstrations hold others")
            return Each(tuple(turn for turn in turns if isinstance(turn, Turn)))
        if given.get("role") not in ROLES:
            raise self._wrong(f"{what}: the role {given.get('role')!r} is none; valid: {', '.join(ROLES)}")
        if not isinstance(given.get("content"), str):
            raise self._wrong(f"{what}: a message has no text as content")
        return Turn(given["role"], given["content"].strip("\n"))

    def _mapping(self, found: Any, what: str, keys: set[str]) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self._wrong(f"{what} is no mapping of names to values")
        for key in found:
            if key not in keys:
                raise self._wrong(f"{what} has a key {key!r}, which is none. {did_you_mean(key, keys)}".rstrip("."))
        return found

    def _list(self, found: Any, what: str) -> list[Any]:
        if not isinstance(found, list) or not found:
            raise self._wrong(f"{what} is no list")
        return found

    def _texts(self, found: Any, what: str) -> dict[str, str]:
        if not isinstance(found, dict):
            raise self._wrong(f"{what} is no mapping of names to texts")
        return {name: str(text).strip() for name, text in found.items()}

    def _number(self, found: Any, what: str, least: int) -> int:
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise self._wrong(f"{what} is {found!r}; a whole number of at least {least} is wanted")
        return found

    def _pattern(self, found: Any, what: str) -> re.Pattern[str]:
        try:
            return re.compile(found)
        except (re.error, TypeError) as error:
            raise self._wrong(f"{what} is no regular expression ({error})") from error

    def _wrong(self, why: str) -> InputError:
        return InputError(f"--style {self.where}: {why}.")
