"""Tasks made up from tasks: Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions",
ACL 2023.

Each wave is a function of what was kept before it, and ends when all of its requests are answered: so a run that was
stopped goes on where it was, and asks nothing twice.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdtool.generation.overlap import words
from kdtool.generation.request import Messages, Request, Sampling
from kdtool.generation.rows import MARKS, QUESTION, Row
from kdtool.generation.style import TASKS, Turn, Waves
from kdtool.tasks.common.texts import longest_common

REQUESTS = 8
"""Of a wave."""
BARREN = 3
"""Waves in a row without a new task, after which no more come."""


@dataclass
class Pool:
    """The tasks that are kept.

    Args:
        how: how tasks are made up.
        seeds: the given ones.
        seed: decides which tasks are shown.

    Attributes:
        made: the made up ones, in order.
        left_out: how many were not kept, by why.
    """

    how: Waves
    seeds: Sequence[str]
    seed: int
    made: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._words = [words(task) for task in self.seeds]
        self._counts = [Counter(each) for each in self._words]

    def messages(self, wave: int, number: int) -> Messages:
        """Return what is asked in a request of a wave."""
        draw = random.Random(f"{self.seed} {wave} {number}")
        own = draw.sample(self.made, min(self.how.own, len(self.made)))
        given = draw.sample(list(self.seeds), min(self.how.shown - len(own), len(self.seeds)))
        shown = [*given, *own]
        draw.shuffle(shown)
        tasks = "\n".join(f"{i}. {' '.join(task.split())}" for i, task in enumerate(shown, 1))
        return tuple(part.filled({TASKS: tasks}) for part in self.how.parts if isinstance(part, Turn))

    def take(self, text: str) -> int:
        """Keep the new tasks in an answer, and return how many they are."""
        before = len(self.made)
        for found in self.how.item.finditer(text):
            task = found["instruction"].strip()
            why = self._fault(task)
            if why:
                self.left_out[why] += 1
            else:
                self.made.append(task)
                self._words.append(words(task))
                self._counts.append(Counter(self._words[-1]))
        return len(self.made) - before

    def _fault(self, task: str) -> str | None:
        own, (low, high) = words(task), self.how.words
        if not low <= len(own) <= high:
            return "length"
        if self.how.without & set(own):
            return "words that are not wanted"
        if MARKS.search(task):
            return "marks of a chat template"
        return "not new" if any(self._near(own, Counter(own), i) for i in range(len(self._words))) else None

    def _near(self, own: list[str], counts: Counter[str], other: int) -> bool:
        """Tell whether ROUGE-L with a kept task reaches the limit; most pairs share too few words to be compared."""
        needed = self.how.rouge_l * (len(own) + len(self._words[other])) / 2
        return (counts & self._counts[other]).total() >= needed and longest_common(own, self._words[other]) >= needed


def requests_of(pool: Pool, wave: int, model: str, sampling: Sampling) -> list[Request]:
    """Return what is asked in a wave, from 0."""
    return [Request(model, pool.messages(wave, number), sampling, number) for number in range(REQUESTS)]


def make_up(
    pool: Pool, count: int, model: str, sampling: Sampling, ask: Callable[[list[Request], str], list[str | None] | None]
) -> Iterator[dict[str, Any]]:
    """Fill a pool wave by wave, and yield after each "wave", "asked", "new" and "kept".

    Args:
        pool: of tasks; filled.
        count: how many new ones are wanted.
        model: whom to ask.
        sampling: how it writes.
        ask: of requests and a name, returns their texts, None for each that was refused; None: not all are answered.
    """
    wave = barren = 0
    while len(pool.made) < count and barren < BARREN:
        texts = ask(requests_of(pool, wave, model, sampling), f"wave {wave + 1}")
        if texts is None:
            return
        new = sum(pool.take(text) for text in texts if text is not None)
        barren = 0 if new else barren + 1
        wave += 1
        yield {"wave": wave, "asked": REQUESTS, "new": new, "kept": len(pool.made)}


def rows_of(pool: Pool, count: int) -> list[Row]:
    """Return the made up tasks as rows, at most so many."""
    return [Row(f"made-{number}", {QUESTION: task}) for number, task in enumerate(pool.made[:count], 1)]
