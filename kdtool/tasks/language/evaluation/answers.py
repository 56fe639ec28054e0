"""What networks answer to prompts: greedily, several at once, with the keys and values of what was read kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kdtool.tasks.common.files.cells import Unfit
from kdtool.tasks.common.texts import Answer, rouge_l
from kdtool.tasks.language.data.chats import Chat
from kdtool.tasks.language.data.dataset import LanguageData, Split
from kdtool.tasks.language.models.built import Built
from kdtool.tasks.language.models.writing import answers

AT_ONCE = 8
"""Prompts that are answered together."""


@dataclass(frozen=True)
class Prompt:
    """What is asked.

    Attributes:
        text: as the network reads it.
        asked: the last turn before the answer, for people.
        reference: the answer that the data gives.
    """

    text: str
    asked: str
    reference: str


def prompts_of(data: LanguageData, split: Split, count: int | None) -> list[Prompt]:
    """Return a split's prompts in order, at most so many; of a plain text its first half, to be gone on with."""
    found: list[Prompt] = []
    for sample in data.sources(split):
        if count is not None and len(found) == count:
            break
        if not isinstance(sample, Chat):
            half = max(sample.rfind(" ", 0, len(sample) // 2), 1)
            found.append(Prompt(sample[:half], sample[:half], sample[half:].strip()))
            continue
        last = sample.answers[-1]
        try:
            text = data.writer.prompt(sample)
        except Unfit:
            continue
        asked = sample.turns[last - 1][1] if last else ""
        found.append(Prompt(text, asked, sample.turns[last][1]))
    return found


@dataclass(frozen=True)
class Questions:
    """What networks are asked, and how.

    Attributes:
        prompts: one or more.
        longest: tokens of a prompt at most; of a longer one the last are read.
        new_tokens: tokens of an answer at most.
        final: finds final answers; None: they are not compared.
    """

    prompts: Sequence[Prompt]
    longest: int
    new_tokens: int
    final: Answer | None = None

    def figures(self, written: Sequence[str]) -> dict[str, float]:
        """Return "rouge_l" and, where final answers are compared, "exact_match", both in [0, 1].

        Args:
            written: a network's answers, in order.
        """
        pairs = list(zip(written, self.prompts, strict=True))
        found = {"rouge_l": float(np.mean([rouge_l(text, prompt.reference) for text, prompt in pairs]))}
        if self.final is not None:
            wanted = [(text, self.final(prompt.reference)) for text, prompt in pairs]
            found["exact_match"] = float(np.mean([self.final(text) == one for text, one in wanted if one is not None]))
        return found


def write(built: Built, questions: Questions, device: torch.device) -> list[str]:
    """Return what a network answers to each prompt.

    A prompt's answer depends on that prompt alone: shorter ones are padded in front, where nothing looks.
    """
    ids = [ids_of(built, prompt.text)[-questions.longest :] for prompt in questions.prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # like lengths together
    found = [""] * len(ids)
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        written = answers(built, [ids[i] for i in some], questions.new_tokens, device)
        for i, answer in zip(some, written, strict=True):
            found[i] = built.tokens.decode(answer).strip()
    return found


def ids_of(built: Built, text: str) -> list[int]:
    """Return a prompt in tokens."""
    (encoded,) = built.tokens.encode([text])
    lead = [] if text.startswith(tuple(built.tokens.special)) else built.tokens.start
    return [*lead, *encoded.ids]
