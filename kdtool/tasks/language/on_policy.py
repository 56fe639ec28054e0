"""Answers that the student writes to a batch's prompts, in the place of the given ones.

Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, algorithm 1: a student that learns from given
texts alone never sees what its own first mistake leads to.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.engine.job import OWN, Loaded
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.models.built import LanguageNetwork
from kdtool.tasks.language.models.writing import drawn, go_on
from kdtool.tasks.language.options import Data


class OwnAnswers:
    """Lets a network write a batch's answers: a ``kdtool.engine.job.Writer``.

    Args:
        cfg: the recipe's section ``data``.
        offsets: (N + 1,) int64, where the training samples' rows begin.
        end: the token that ends a text.
        seed: of the run.
    """

    def __init__(self, cfg: Data, offsets: np.ndarray, end: int | None, seed: int):
        self.share, self.cfg, self.end, self.seed = cfg.on_policy, cfg, end, seed
        self.offsets = torch.from_numpy(offsets)

    def __call__(self, network: nn.Module, loaded: Loaded, stage: str, step: int) -> Loaded:
        """Return the batch with the last answer of each sample drawn from the network."""
        assert loaded.rows is not None
        inputs = tree.apply(loaded.inputs, Tensor.cpu)
        prompts = [ids[:count] for ids, count in zip(inputs["ids"].tolist(), prompt_lengths(inputs), strict=True)]
        ends = torch.tensor(loaded.rows).cumsum(0)
        first = loaded.index.cpu()[ends - torch.tensor(loaded.rows)]
        samples = torch.searchsorted(self.offsets, first, right=True) - 1
        most = [min(self.cfg.on_policy_tokens, max(1, self.cfg.max_length - len(prompt))) for prompt in prompts]
        pick = drawn(samples, self.cfg.on_policy_temperature, f"on policy, {stage}", self.seed, step)
        answers = go_on(cast(LanguageNetwork, network), prompts, most, self.end, pick)
        made = [(np.array([*prompt, *answer]), np.arange(len(prompt) + len(answer)) >= len(prompt))
                for prompt, answer in zip(prompts, answers, strict=True)]  # fmt: skip
        rows, device = [len(answer) for answer in answers], loaded.index.device
        index = first.repeat_interleave(torch.tensor(rows)).to(device)
        return Loaded(tree.to(padded(made), device), torch.full_like(index, -1), index, OWN, rows)


def prompt_lengths(inputs: dict[str, Tensor]) -> list[int]:
    """Return how many tokens of each sample stand before its last answer; of a text that is all learnt, the half."""
    found = []
    for following, length in zip(inputs["next"], inputs["lengths"].tolist(), strict=True):
        # Where an answer's first token follows, and none does before.
        begins = following & ~torch.cat([following.new_zeros(1), following[:-1]])
        first = int(begins.nonzero()[-1]) + 1
        found.append(first if first > 1 else max(1, length // 2))
    return found
