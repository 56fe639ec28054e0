"""A teacher that reads more than its student: instructions or solved examples in front of every sample.

Askell et al., "A General Language Assistant as a Laboratory for Alignment", 2021, section 2.2: context distillation;
Huang et al., "In-context Learning Distillation", 2022: with demonstrations. The student learns to do without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.randomness import uniforms
from kdtool.tasks.common.adapted import Unchanged
from kdtool.tasks.common.files.cells import Unfit, sound
from kdtool.tasks.language.data.chats import ASSISTANT, Chat, Writer
from kdtool.tasks.language.data.dataset import LanguageData
from kdtool.tasks.language.models.built import Inputs

SYSTEM = "system"


@dataclass(frozen=True)
class Context:
    """What stands in front of samples, in tokens.

    Attributes:
        lead: what every sample begins with, and ``variants`` begin with in its place: a start token, a system message
            of the template's own. Of a sample that lost its beginning nothing is taken away.
        variants: what is put there; with demonstrations one for each of them, without it, and the last for samples
            that are none of them.
        prompts: of the demonstrations, how they begin as samples.
    """

    lead: list[int]
    variants: list[list[int]]
    prompts: list[list[int]] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Tokens of the longest variant."""
        return max(map(len, self.variants))

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        return hashlib.sha256(repr((self.lead, self.variants, self.prompts)).encode()).hexdigest()

    def before(self, ids: Sequence[int]) -> list[int]:
        """Return a sample's tokens, or those of a prompt, with what stands in front of them."""
        rest = list(ids)
        variant = next((i for i, each in enumerate(self.prompts) if rest[: len(each)] == each), len(self.variants) - 1)
        return self.variants[variant] + (rest[len(self.lead) :] if rest[: len(self.lead)] == self.lead else rest)

    def of(self, inputs: Inputs) -> Inputs:
        """Return a batch with what stands in front of its samples; rows stay what they were, and in order.

        Where a token of a sample is predicted from the lead, it is predicted from the variant's last.
        """
        ids_BL, lengths_B = inputs["ids"], inputs["lengths"]
        device, width = ids_BL.device, self.longest + ids_BL.shape[1]
        variant_B = torch.full_like(lengths_B, len(self.variants) - 1)
        for number, prompt in enumerate(self.prompts):
            variant_B = torch.where(_begins(ids_BL, lengths_B, prompt), number, variant_B)
        drop_B = _begins(ids_BL, lengths_B, self.lead) * len(self.lead)
        front_VP = torch.zeros(len(self.variants), self.longest, dtype=ids_BL.dtype)
        for row, each in enumerate(self.variants):
            front_VP[row, : len(each)] = torch.tensor(each)
        size_B = torch.tensor([len(each) for each in self.variants]).to(device)[variant_B]
        place_W = torch.arange(width, device=device)
        own_BW = place_W - (size_B - drop_B)[:, None]  # where in the sample, were it whole
        inside_BW = (own_BW >= 0) & (own_BW < ids_BL.shape[1])
        at_BW = own_BW.clamp(0, ids_BL.shape[1] - 1)
        front_BW = front_VP.to(device)[variant_B].gather(1, place_W.clamp(max=self.longest - 1).expand(len(ids_BL), -1))
        found_BW = torch.where(place_W < size_B[:, None], front_BW, ids_BL.gather(1, at_BW))
        # The place before the sample's first token is the lead's last, or the variant's.
        learnt_BW = inputs["next"].gather(1, at_BW) & inside_BW & (place_W >= size_B[:, None] - 1)
        return {"ids": found_BW, "next": learnt_BW, "lengths": lengths_B + size_B - drop_B}


def _begins(ids_BL: Tensor, lengths_B: Tensor, with_: Sequence[int]) -> Tensor:
    """Return (B,) bool: which samples begin with these tokens."""
    if len(with_) > ids_BL.shape[1]:
        return torch.zeros_like(lengths_B, dtype=torch.bool)
    wanted = torch.tensor(list(with_), dtype=ids_BL.dtype).to(ids_BL.device)
    return (ids_BL[:, : len(with_)] == wanted).all(1) & (lengths_B >= len(with_))


class InContext(Unchanged):
    """A teacher's tapped network that takes the student's inputs, and reads a context before them."""

    def __init__(self, network: Any, context: Context):
        super().__init__(network)
        self.context = context

    def forward(self, inputs: Inputs) -> Any:
        return self.network(self.context.of(inputs))


def as_read(network: nn.Module, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return prompts as a network reads them: a teacher with a context after that."""
    context = getattr(network, "context", None)
    return [list(each) if context is None else context.before(each) for each in prompts]


def context_of(section: Any, data: LanguageData, loss_on: str, seed: int) -> Context | None:
    """Return what a teacher reads before samples, None where that is nothing.

    Args:
        section: its part of the recipe: ``prefix`` and ``demonstrations``.
        data: the run's; demonstrations are of its training split.
        loss_on: ``data.loss_on``.
        seed: what demonstrations are drawn by.

    Raises:
        InputError: there is no such file, no text in it, too few chats to draw from, or the template refuses it.
    """
    if not section.prefix and not section.demonstrations:
        return None
    if loss_on == "all":
        raise InputError("data.loss_on=all: a teacher with a context (teacher.prefix, teacher.demonstrations) reads "
                         "another beginning of a sample than the student. Learn the answers (completion), or the "
                         "last (last).")  # fmt: skip
    told = _text(section.prefix) if section.prefix else ""
    drawn = _drawn(data, section.demonstrations + 1, seed) if section.demonstrations else {}
    shown = list(drawn.values())
    chats = any(isinstance(data.raw[row], Chat) for row in data.train.samples.sources[data.train.rows].tolist())
    without = [shown[:i] + shown[i + 1 :] for i in range(len(shown))] or [[]]
    texts = [_joined(data.writer, told, each, chats) for each in without]
    lead, tokens = texts[0][0], data.tokens
    start = [] if chats and data.writer.by_template else tokens.start

    def ids(text: str) -> list[int]:
        (encoded,) = tokens.encode([text])
        return [*start, *encoded.ids]

    return Context(ids(lead), [ids(front) for _, front in texts], list(map(list, drawn)))


def _text(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"teacher.prefix={name}: there is no such file. It is a text that the teacher reads first.")
    try:
        return sound(path.read_text(encoding="utf-8"), "its text").strip()
    except (UnicodeDecodeError, Unfit) as error:
        raise InputError(f"teacher.prefix={name} holds no text in UTF-8 ({error}).") from error


def _drawn(data: LanguageData, count: int, seed: int) -> dict[tuple[int, ...], Chat]:
    """Return training chats by their prompts in tokens, all different, in an order that follows from the seed."""
    rows = torch.from_numpy(data.train.rows)
    order = rows[uniforms(rows, "demonstrations", seed, 0).argsort(stable=True)]
    found: dict[tuple[int, ...], Chat] = {}
    for row in order.tolist():
        sample = data.raw[int(data.train.samples.sources[row])]
        if isinstance(sample, Chat) and len(found) < count:
            ids, learnt = data.train.samples[row]
            begins = np.flatnonzero(learnt & ~np.concatenate([[False], learnt[:-1]]))
            found.setdefault(tuple(ids[: begins[-1]].tolist()), sample)
    if len(found) < count:
        raise InputError(f"teacher.demonstrations={count - 1}: the training split has {len(found)} chats of different "
                         f"prompts, and {count} are needed, for none is shown before itself.")  # fmt: skip
    return found


def _joined(writer: Writer, told: str, shown: Sequence[Chat], chats: bool) -> tuple[str, str]:
    """Return what samples begin with, and what a teacher reads in its place, as texts.

    They are found on two samples that have nothing in common: what is the same in front of both.
    """
    if not (chats and writer.by_template):
        each = "".join(writer(chat).text + (chat.glue or "\n") for chat in shown)
        return "", (f"{told}\n\n" if told else "") + each
    turns = [turn for chat in shown for turn in chat.turns if turn[0] != SYSTEM]
    head = [(SYSTEM, told)] if told else []
    found = []
    for asked in ("Xq7", "Yk9"):
        sample = [("user", asked), (ASSISTANT, asked)]
        try:
            alone, after = (writer.tokens.chat(Chat((*before, *sample)).messages) for before in ((), (*head, *turns)))
        except Exception as error:  # a template is a program of its author's
            raise InputError(f"teacher.prefix: the chat template takes no such context ({error}).") from error
        pairs = zip(reversed(alone), reversed(after), strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        rest = alone[len(alone) - same :]
        # What ends in front of both alike is no part of the sample, whose turn most templates begin with a mark.
        marks = [rest.rfind(mark, 0, max(rest.find(asked), 0)) for mark in writer.tokens.special]
        rest = rest[max([0, *marks]) :]
        found.append((alone.removesuffix(rest), after.removesuffix(rest)))
    if found[0] != found[1] or not found[0][1]:
        raise InputError("teacher.prefix: the chat template writes a sample otherwise once something stands before it.")
    return found[0]
