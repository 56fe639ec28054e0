"""A language model that answers for ``kdtool.generate``: several questions at once, each on its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.generation.reply import token_of
from kdtool.generation.request import Answer, Place, Request
from kdtool.tasks.language.data.chats import ASSISTANT, Chat, Writer
from kdtool.tasks.language.evaluation.answers import AT_ONCE, ids_of
from kdtool.tasks.language.evaluation.target import find, open_target, place_of
from kdtool.tasks.language.models.token_bytes import bytes_of
from kdtool.tasks.language.models.tokens import of_folder
from kdtool.tasks.language.models.writing import answers

DRY_LENGTH = 32
"""Tokens at which a network is checked when it is opened."""


class Answerer:
    """A network as a teacher, see ``kdtool.generation.request.Teacher``.

    Args:
        target: a run's folder, a saved model's folder, a hub name or a .gguf file.
        device: None: the best there is.

    Raises:
        InputError: it cannot be opened.
    """

    at_once, workers = AT_ONCE, 1

    def __init__(self, target: str, device: str | None):
        found = find(target)
        tokens = of_folder(place_of(found))
        self.built = open_target(found, tokens, tokens.size, DRY_LENGTH).built
        self.device = pick_device(device or "auto")
        self.name = target
        self.model = f"{found.name}@{self.built.weights_id}"  # other weights give other answers
        self._bytes = bytes_of(tokens)
        self._writer = Writer(tokens, "auto", "completion", marks=True)  # who asks has left out those that hold some
        self._places = getattr(self.built.module.config, "max_position_embeddings", None)

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers to requests that are sampled alike."""
        began, how = time.monotonic(), requests[0].sampling
        ids = [self._ids(request) for request in requests]
        choose = Choose([request.seed for request in requests], how.temperature, how.top_p, how.logprobs)
        written = answers(self.built, ids, how.new_tokens, self.device, choose)
        seconds = round((time.monotonic() - began) / len(requests), 3)
        return [
            Answer(
                self.built.tokens.decode(answer).strip(),
                "stop" if len(answer) < how.new_tokens else "length",
                len(prompt), min(len(answer) + 1, how.new_tokens), True, self.model, seconds,
                logprobs=self._logprobs(choose, row, len(answer) + 1) if how.logprobs else None,  # its end, too
            )
            for row, (prompt, answer) in enumerate(zip(ids, written, strict=True))
        ]  # fmt: skip

    def _ids(self, request: Request) -> list[int]:
        text = self._writer.prompt(Chat((*request.messages, (ASSISTANT, ""))))
        ids = ids_of(self.built, text)
        room = (self._places or len(ids) + request.sampling.new_tokens) - request.sampling.new_tokens
        return ids[-max(room, 1) :]

    def _logprobs(self, choose: Choose, row: int, count: int) -> list[Place]:
        """Return the log-probabilities of an answer's tokens as ``Answer`` has them."""
        places: list[Place] = []
        for own, likely in choose.told(row, count):
            (token, value), *others = [(self._name(number), value) for number, value in [own, *likely]]
            places.append((token, value, others))
        return places

    def _name(self, number: int) -> Any:
        """Return a token as ``Place`` has it."""
        data = self._bytes.get(number, f"[{number}]".encode())
        return token_of(data.decode(errors="replace"), list(data))


class Choose:
    """Samples each row's tokens from noise of its own, so that they do not depend on who else is in the batch.

    The largest of logits / T + Gumbel noise is a sample of softmax(logits / T) (Gumbel, 1954): so the search stays a
    greedy one.

    Args:
        seeds: of each row's noise.
        temperature: T; 0: no noise.
        top_p: the likeliest tokens that reach this share are sampled from (Holtzman et al., 2020).
        keep: how many log-probabilities, of the distribution at T = 1, are kept at each place.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, keep: int):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature, self.top_p, self.keep = temperature, top_p, keep
        self._told: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def __call__(self, scores: Tensor, place: int) -> Tensor:
        """Return the (B,) next tokens, as ``kdtool.tasks.language.models.writing.Pick``."""
        found = self._noisy(scores.float()) if self.temperature else scores
        if self.keep:
            log_p_BV = scores.float().log_softmax(-1)
            chosen_B1 = found.argmax(-1, keepdim=True)
            values, numbers = log_p_BV.topk(min(self.keep, log_p_BV.shape[-1]))
            self._told.append((chosen_B1.cpu(), log_p_BV.gather(1, chosen_B1).cpu(), numbers.cpu(), values.cpu()))
        return found.argmax(-1)

    def _noisy(self, scores_BV: Tensor) -> Tensor:
        scaled_BV = scores_BV / self.temperature
        if self.top_p < 1:
            ranked, order = scaled_BV.sort(-1, descending=True)
            before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
            scaled_BV = scaled_BV.masked_fill(
                torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= self.top_p), -torch.inf
            )
        uniform_BV = torch.stack([torch.rand(scores_BV.shape[-1], generator=each) for each in self.generators])
        gumbel_BV = -(-uniform_BV.clamp(1e-20, 1 - 1e-7).log()).log()
        return scaled_BV + gumbel_BV.to(scaled_BV)

    def told(self, row: int, count: int) -> list[tuple[tuple[int, float], list[tuple[int, float]]]]:
        """Return of a row's first places the token, and the likeliest ones; (number, log-probability) each."""
        found = []
        for chosen, own, numbers, values in self._told[:count]:
            likely = [
                (number, round(max(value, -1e4), 5))
                for number, value in zip(numbers[row].tolist(), values[row].tolist(), strict=True)
            ]
            found.append(((int(chosen[row]), round(float(own[row]), 5)), likely))
        return found
