"""The newest answers of a student's, kept to be learnt from again.

Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models", ICML 2024, section 3.2: writing
is what costs the time of a step, so what was written is used more than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.processes import from_all

Answer = tuple[list[int], list[int], int]
"""A prompt and its answer, in tokens, and the number of its sample's first row."""


class Recent:
    """Answers, oldest first, the same on every process.

    Args:
        found: those to begin with.
    """

    def __init__(self, found: Sequence[Answer] = ()):
        self._found = list(found)
        self._added: Any = None

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, number: int) -> Answer:
        return self._found[number]

    def add(self, answers: Sequence[Answer], most: int, when: tuple[str, int]) -> None:
        """Keep what the processes wrote, in their order, and of all that is kept the newest.

        Args:
            answers: of this process.
            most: how many are kept.
            when: stage and step; what one that is repeated for want of memory wrote is there already.
        """
        if when == self._added:
            return
        every = [answer for part in from_all(list(answers)) for answer in part]
        self._found, self._added = [*self._found, *every][-most:], when

    def state(self) -> dict[str, Tensor]:
        """Return the answers as int64 tensors: all "tokens" in a row, and by answer its "prompt" and "answer" lengths
        and "first" row."""
        prompts, answers, first = zip(*self._found, strict=True) if self._found else ((), (), ())
        tokens = [token for prompt, answer, _ in self._found for token in (*prompt, *answer)]
        columns = {"tokens": tokens, "prompt": map(len, prompts), "answer": map(len, answers), "first": first}
        return {name: torch.tensor(list(values), dtype=torch.int64) for name, values in columns.items()}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Recent:
        """Return answers from their tensors."""
        tokens, found, start = state["tokens"].tolist(), [], 0
        for prompt, answer, first in zip(
            *(state[name].tolist() for name in ("prompt", "answer", "first")), strict=True
        ):
            middle, end = start + prompt, start + prompt + answer
            found.append((tokens[start:middle], tokens[middle:end], first))
            start = end
        return cls(found)
