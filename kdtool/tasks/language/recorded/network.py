"""A teacher of which only its words are there: built from a generated set, and asked as a network is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.cache.open import refuse_heat
from kdtool.cache.part import filled
from kdtool.engine.job import Beside, Loaded
from kdtool.engine.rows import Late
from kdtool.errors import InputError
from kdtool.method import TapSpec
from kdtool.tasks.language.data.chats import Chat
from kdtool.tasks.language.data.dataset import LanguageData, Split
from kdtool.tasks.language.models.built import Built, Inputs
from kdtool.tasks.language.models.token_bytes import bytes_of
from kdtool.tasks.language.recorded.given import Given, read_given
from kdtool.tasks.language.recorded.match import Matching, Rows, Told, rows_of

NAMES = ("index", "values", "rest", "known")


@dataclass(frozen=True)
class Words:
    """The rows of all samples, and whose they are.

    Attributes:
        rows: of all, one after the other.
        places: by a sample's tokens, as bytes, its first row and one past the last.
        classes: V.
        rest: see ``cache.rest``.
    """

    rows: Rows = field(repr=False)
    places: Mapping[bytes, tuple[int, int]] = field(repr=False)
    classes: int
    rest: str

    def __deepcopy__(self, _: Any) -> Words:
        return self  # nobody changes it

    def of(self, inputs: Inputs) -> Said:
        """Return what was said of a batch's rows.

        Noise, which dry forwards have and of which all is learnt, has equally likely tokens.

        Raises:
            InputError: a sample is none of the set.
        """
        ids_BL, next_BL, lengths_B = (inputs[name].cpu() for name in ("ids", "next", "lengths"))
        found: list[int] = []
        for ids, following, length in zip(ids_BL.numpy(), next_BL.numpy(), lengths_B.tolist(), strict=True):
            place = self.places.get(key_of(ids[:length]))
            if place is None and not following[: length - 1].all():
                raise InputError("the teacher is a generated set, and a sample that is to be learnt is none of it.")
            found += range(*place) if place is not None else [-1] * int(following.sum())
        row_R = np.array(found, dtype=np.int64)
        noise = torch.from_numpy(row_R < 0)
        fields = {name: torch.from_numpy(getattr(self.rows, name)[row_R]) for name in NAMES}
        fields["index"] = fields["index"].long().masked_fill(noise[:, None], 0)
        fields["values"] = fields["values"].masked_fill(noise[:, None], -log(self.classes))
        fields["rest"] = fields["rest"].masked_fill(noise, log(max(self.classes - 1, 1) / self.classes))
        fields["known"] = fields["known"].masked_fill(noise, 1)
        device = inputs["ids"].device
        return Said({name: each.to(device) for name, each in fields.items()}, self.classes, self.rest)


def key_of(ids: np.ndarray) -> bytes:
    """Return a sample's (L,) tokens as bytes."""
    return ids.astype(np.int32).tobytes()


@dataclass(frozen=True)
class Said:
    """Logits of which the likeliest are known: a ``kdtool.engine.rows.Late``.

    Attributes:
        fields: by the names of ``Rows``, R rows each.
        classes: V.
        rest: how the others share what is left, see ``cache.rest``.
    """

    fields: Mapping[str, Tensor]
    classes: int
    rest: str

    @property
    def shape(self) -> tuple[int, int]:
        """(R, V)."""
        return len(self.fields["rest"]), self.classes

    def whole(self, beside: Tensor | None = None) -> Tensor:
        """Return (R, V) logits; the unknown ones follow the student's, given as ``beside``, where that is asked for."""
        index, values, rest, known = (self.fields[name] for name in NAMES)
        return filled(index, values, rest, self.classes, self.rest, beside, known)

    def split(self, sizes: Sequence[int]) -> list[Late]:
        """Return parts of so many rows."""
        parts = zip(*(self.fields[name].split(list(sizes)) for name in NAMES), strict=True)
        return [Said(dict(zip(NAMES, each, strict=True)), self.classes, self.rest) for each in parts]


class RecordedNetwork(nn.Module):
    """Words in the place of a tapped network: a batch's ``Inputs`` -> late logits, and no taps."""

    def __init__(self, words: Words):
        super().__init__()
        self.words = words
        self.module = nn.Module()
        self.roles: dict[str, list[str]] = {}
        self.single: dict[str, bool] = {}

    def shapes(self) -> dict[str, Any]:
        """Return the taps' shapes: there are none."""
        return {}

    def forward(self, inputs: Inputs) -> tuple[Said, dict[str, Any]]:
        """Return what was said of the rows."""
        return self.words.of(inputs), {}


@dataclass
class Recorded(Built):
    """A teacher that is a generated set.

    Attributes:
        words: what it says.
    """

    words: Words = field(kw_only=True)

    writes = False

    def tapped(self, taps: TapSpec | None = None) -> Any:
        """Return the words as a network.

        Raises:
            InputError: hidden states are to be tapped.
        """
        if taps:
            raise InputError(
                f"teacher {self.name} is a generated set, which has log-probabilities and no hidden states: choose a "
                "method that learns from these alone (kd, gkd, dkd, ...)."
            )
        return RecordedNetwork(self.words)

    def dry_inputs(self, count: int) -> Inputs:
        """Return noise, see ``Words.of``."""
        following = torch.ones(count, 2, dtype=torch.bool)
        following[:, -1] = False
        return {"ids": torch.zeros(count, 2, dtype=torch.int64), "next": following, "lengths": torch.full((count,), 2)}


class NobodyWrites:
    """In the place of ``kdtool.tasks.language.written.Answers``, where the teacher cannot look at new answers.

    Args:
        share: ``data.on_policy``.
        teacher: what it is: "a generated set".
    """

    temperature, count = 1.0, 0

    def __init__(self, share: float | None, teacher: str):
        self.share, self.teacher = share, teacher

    def __call__(
        self, network: nn.Module, loaded: Loaded, stage: str, step: int, beside: Beside | None = None, keep: int = 0
    ) -> Loaded:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the student is to write answers itself, of which a teacher that is {self.teacher} says nothing: "
            "data.on_policy=0, or another method."
        )

    def again(self, loaded: Loaded, stage: str, step: int) -> Loaded:
        """Return what is never asked for, since nothing is kept."""
        raise AssertionError("nothing is kept")

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep nothing."""

    def taught(self, teacher: nn.Module, loaded: Loaded) -> Loaded:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the teacher is to write answers, and is {self.teacher}: let it write them before (kdtool generate), and "
            "learn its text with --method none."
        )


def build_recorded(section: Any, recipe: Any, data: LanguageData, online: bool) -> Recorded:
    """Return a generated set as a teacher.

    Args:
        section: its part of the recipe; the model is the set's folder.
        recipe: the run's.
        data: what it is to teach, all of it of the set.
        online: teachers are peers that train along.

    Raises:
        InputError: the set has no log-probabilities, is not of the student's vocabulary or not of these data, or is to
            do what only a network can.
    """
    name = section.model
    asked: dict[str, Any] = {"weights": "auto", "prefix": None, "demonstrations": 0, "model_args": {}}
    for key, usual in asked.items():
        if getattr(section, key) != usual:
            raise InputError(f"teacher.{key}={getattr(section, key)}: {name} is a generated set; leave it out.")
    if online:
        raise InputError(f"--teacher {name} is a generated set and cannot train along: choose another method.")
    if recipe.cache.mode != "off":
        raise InputError(
            f"cache.mode={recipe.cache.mode}: {name} is a generated set, which keeps all there is; leave it out."
        )
    if data.stream is not None:
        raise InputError(
            f"--teacher {name} is a generated set, all of whose words are held, and a stream (train.steps) is not: "
            "train on it with --epochs."
        )
    refuse_heat(recipe, name, "take a network as the teacher")
    given, tokens, classes = read_given(name), data.tokens, len(data.class_names)
    special = frozenset(tokens.library.convert_tokens_to_ids(each) for each in tokens.special)
    matching = Matching(bytes_of(tokens), special, classes)
    told, labels, places = list[Told | None](), list[int](), dict[bytes, tuple[int, int]]()
    for ids, learnt, given_places in _samples(given, data):
        sample = key_of(ids)
        if sample not in places:
            first = len(labels)
            labels += ids[learnt].tolist()
            told += _told(matching, ids, learnt, given_places)
            places[sample] = (first, len(labels))
    matching.check(name)
    lacking = sum(each is None for each in told)
    notes = [f"teacher {given.teacher}: its log-probabilities are kept in {name}"]
    if lacking:
        notes[0] += (
            f"; of {lacking:,} of {len(told):,} tokens there is none (an answer's end, of which most servers say "
            "nothing, earlier turns, or another cut), and their text is learnt as if it were certain"
        )
    words = Words(rows_of(told, labels), places, classes, recipe.cache.rest)
    return Recorded(
        nn.Module(), given.teacher, f"set:{name}", num_classes=classes, notes=notes, needs_training=False,
        weights_id=given.digest, tokens=tokens, trunk="", stages=(), words=words,
    )  # fmt: skip


def _samples(given: Given, data: LanguageData) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """Yield all samples' tokens, which of them are learnt, and the places of their answers.

    Raises:
        InputError: some are none of the set.
    """
    for name, split in {"training": data.train, "validation": data.val, "test": data.test}.items():
        numbers = split.rows.tolist() if split is not None else []
        strange = 0
        for row in numbers:
            chat = data.raw[cast(Split, split).samples.sources[row]]
            if not isinstance(chat, Chat) or chat.turns not in given.samples:
                strange += 1
            else:
                ids, learnt = cast(Split, split).samples[row]
                yield ids, learnt, given.samples[chat.turns]
        if strange:
            raise InputError(
                f"--teacher {given.name} is a generated set, and {strange:,} of {len(numbers):,} {name} samples are "
                f"none of it. Train on what was generated (--data {given.name}), and test elsewhere afterwards (kdtool "
                "eval RUN --data FILE)."
            )


def _told(matching: Matching, ids: np.ndarray, learnt: np.ndarray, places: Any) -> list[Told | None]:
    """Return what was said of the tokens that are learnt: of those of the last answer, which the teacher wrote."""
    numbers = np.flatnonzero(learnt)
    last = int(np.flatnonzero(np.diff(numbers, prepend=-2) > 1)[-1])
    answer = ids[numbers[last:]].tolist()
    found: list[Told | None] = [None] * len(numbers)
    if places:
        found[last:] = matching.answer(answer, places)
    return found
