"""The log-probabilities of a generated set, by sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.generation.request import Place
from kdtool.generation.taught import read_answers, read_set
from kdtool.terminal.words import clean

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Given:
    """What a teacher said of its answers.

    Attributes:
        name: the set's folder, as it was given.
        teacher: who answered.
        samples: by a sample's turns the places of the answer that it was made of; None: there are none.
    """

    name: str
    teacher: str
    samples: dict[Turns, list[Place] | None]

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        total = hashlib.sha256()
        for turns, places in self.samples.items():
            total.update(json.dumps([turns, places]).encode() + b"\n")
        return total.hexdigest()


def read_given(name: str) -> Given:
    """Read a generated set's log-probabilities.

    Raises:
        InputError: it cannot be read, or has none.
    """
    folder = Path(name).expanduser()
    card, samples = read_set(folder)
    answers = dict(read_answers(folder, {sample["key"] for sample in samples if isinstance(sample.get("key"), str)}))
    found: dict[Turns, list[Place] | None] = {}
    for sample in samples:
        answer = answers.get(sample.get("key", ""))
        turns = tuple(_turns(sample))
        found[turns] = found.get(turns) or (answer.logprobs if answer is not None else None)
    if not any(found.values()):
        raise InputError(
            f"--teacher {name}: the set has no log-probabilities to learn from. `kdtool generate --logprobs 20` keeps "
            "those that a teacher gives; without them its text is learnt (--method none)."
        )
    return Given(name, clean(str(card["teacher"]["model"])), found)


def _turns(sample: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for message in sample["messages"]:
        yield message["role"], message["content"].strip()  # as data are read
