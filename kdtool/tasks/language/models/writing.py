"""Texts that a network goes on with: several at once, with the keys and values of what was read kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.dry import undisturbed
from kdtool.losses import at_least_fp32, ensemble_logits
from kdtool.randomness import uniforms
from kdtool.tasks.common import extra
from kdtool.tasks.language.models.built import Built, LanguageNetwork

Pick = Callable[[Tensor, int], Tensor]
"""Given (B, V) logits and how many tokens were written before, returns the (B,) int64 next ones."""


def likeliest(logits_BV: Tensor, place: int) -> Tensor:
    """Pick greedily."""
    return logits_BV.argmax(1)


def drawn(samples: Tensor, temperature: float, purpose: str, seed: int, step: int) -> Pick:
    """Return what draws from softmax(logits / T): each token by one number, a function of all that is given here.

    Args:
        samples: (B,) int64 numbers of the samples, on the CPU.
        temperature: T > 0.
        purpose: what is written, as in ``kdtool.randomness.uniforms``.
        seed, step: of the run.
    """

    def pick(logits_BV: Tensor, place: int) -> Tensor:
        shares_BV = torch.softmax(at_least_fp32(logits_BV) / temperature, dim=1).cumsum(1)
        number_B = uniforms(samples, f"{purpose}, token {place}", seed, step).to(shares_BV)
        # The sum is 1 but for rounding; the last class with a share is the last that is drawn.
        found_B1 = torch.searchsorted(shares_BV, number_B[:, None] * shares_BV[:, -1:], right=True)
        return torch.minimum(found_B1.squeeze(1), (shares_BV < shares_BV[:, -1:]).sum(1))

    return pick


def answers(
    built: Built, ids: Sequence[Sequence[int]], new_tokens: int, device: torch.device, pick: Pick = likeliest
) -> list[list[int]]:
    """Return what a network answers to prompts, without the token that ends an answer.

    Args:
        built: the network.
        ids: the prompts, in tokens.
        new_tokens: at most, the one that ends an answer included.
        device: where the network is to be.
        pick: chooses the next tokens.
    """
    network, end = built.tapped().to(device), built.tokens.library.eos_token_id
    with torch.inference_mode(), extra.quiet():
        found = go_on(network, ids, [new_tokens] * len(ids), end, pick)
    return [[token for token in each if token != end] for each in found]


@dataclass(frozen=True)
class Also:
    """A second network that has a say in each token.

    Attributes:
        network: with the same classes.
        prompts: as it reads them.
        share: of it in what is drawn from, in (0, 1].
        temperature: at which both are mixed.
        context: gives what its forward runs under.
    """

    network: LanguageNetwork
    prompts: Sequence[Sequence[int]]
    share: float
    temperature: float
    context: Callable[[], AbstractContextManager[object]] = nullcontext


def go_on(
    network: LanguageNetwork,
    prompts: Sequence[Sequence[int]],
    most: Sequence[int],
    end: int | None,
    pick: Pick,
    also: Also | None = None,
) -> list[list[int]]:
    """Return what a network writes after each prompt, its end token included where it came to one.

    Args:
        network: in whatever mode; it is left as it was.
        prompts: B of them, in tokens, at least one each.
        most: tokens to write at most, for each, at least one.
        end: the token that ends a text.
        pick: chooses the next tokens.
        also: a second network that has a say. What is picked from, at its temperature, is (1 - share) times this
            network's distribution and share times that one's.
    """
    device = next(network.module.parameters()).device
    limit_B = torch.tensor(list(most), device=device)
    written: list[Tensor] = []
    going_B = limit_B > 0
    with undisturbed(network.module), nullcontext() if also is None else undisturbed(also.network.module):
        reader = _Reader(network, prompts)
        other = None if also is None else _Reader(also.network, also.prompts)
        while bool(going_B.any()):
            logits_BV = reader.logits()
            if also is not None and other is not None:
                with also.context():
                    theirs_BV = other.logits().to(logits_BV)
                shares = [1 - also.share, also.share]
                logits_BV = ensemble_logits([logits_BV, theirs_BV], shares, temperature=also.temperature)
            next_B = pick(logits_BV, len(written)).masked_fill(~going_B, -1)
            written.append(next_B)
            going_B = going_B & (limit_B > len(written))
            if end is not None:
                going_B = going_B & (next_B != end)
            for each in (reader, other):
                if each is not None:
                    each.read(next_B.clamp(min=0))
    rows = torch.stack(written, dim=1).tolist()
    return [[token for token in row if token >= 0] for row in rows]


class _Reader:
    """A network on its way through texts, with the keys and values of what it read.

    Shorter prompts are padded in front, where nothing looks.
    """

    def __init__(self, network: LanguageNetwork, prompts: Sequence[Sequence[int]]):
        device, width = next(network.module.parameters()).device, max(map(len, prompts))
        self.network, self.kept = network, None
        self.ids_BL = torch.tensor([[0] * (width - len(each)) + list(each) for each in prompts], device=device)
        self.real_BL = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=device)
        self.place_BL = (self.real_BL.cumsum(1) - 1).clamp(min=0)
        # Newer versions of transformers have the first name.
        known = inspect.signature(network.module.base_model.forward).parameters  # type: ignore[union-attr]
        self.name = "cache" if "cache" in known else "past_key_values"

    def logits(self) -> Tensor:
        """Return the (B, V) logits of what follows."""
        found: Any = self.network.module.base_model(  # type: ignore[operator]
            input_ids=self.ids_BL, attention_mask=self.real_BL, position_ids=self.place_BL, use_cache=True,
            **{self.name: self.kept},
        )  # fmt: skip
        self.kept = getattr(found, self.name)
        return at_least_fp32(self.network.head(found.last_hidden_state[:, -1])[:, : self.network.classes])

    def read(self, next_B: Tensor) -> None:
        """Go on with the (B,) tokens that follow."""
        self.ids_BL = next_B[:, None].to(self.ids_BL)
        self.real_BL = torch.cat([self.real_BL, torch.ones_like(self.ids_BL)], dim=1)
        self.place_BL = self.place_BL[:, -1:] + 1
