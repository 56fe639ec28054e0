"""Answers that a network writes to a batch's prompts, in the place of the given ones.

The student's own: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, algorithm 1: one that learns
from given texts alone never sees what its own first mistake leads to. The teacher's: Kim & Rush, "Sequence-Level
Knowledge Distillation", EMNLP 2016; they are written once, and kept for later runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.engine.job import OWN, Loaded
from kdtool.randomness import key_of
from kdtool.tasks.language.context import as_read
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.kept import Kept
from kdtool.tasks.language.models.tokens import Tokens
from kdtool.tasks.language.models.writing import Pick, drawn, go_on, likeliest
from kdtool.tasks.language.options import Data


class Answers:
    """Lets networks write a batch's answers: a ``kdtool.engine.job.Writer``.

    Args:
        cfg: the recipe's section ``data``.
        offsets: (N + 1,) int64, where the training samples' rows begin.
        tokens: the tokenizer.
        seed: of the run.
    """

    def __init__(self, cfg: Data, offsets: np.ndarray, tokens: Tokens, seed: int):
        self.share, self.cfg, self.tokens, self.seed = cfg.on_policy, cfg, tokens, seed
        self.end: int | None = tokens.library.eos_token_id
        self.offsets = torch.from_numpy(offsets)
        self.kept: Kept | None = None

    def __call__(self, network: nn.Module, loaded: Loaded, stage: str, step: int) -> Loaded:
        """Return the batch with the last answer of each sample drawn from the network."""
        prompts, first = prompts_of(loaded), first_rows(loaded)
        samples = torch.searchsorted(self.offsets, first, right=True) - 1
        pick = drawn(samples, self.cfg.on_policy_temperature, f"on policy, {stage}", self.seed, step)
        found = self._batch(loaded, prompts, self._write(network, prompts, self.cfg.on_policy_tokens, pick))
        found.labels.fill_(-1)
        return found

    def taught(self, teacher: nn.Module, loaded: Loaded) -> Loaded:
        """Return the batch with the last answer of each sample as the teacher has once written it."""
        cfg, prompts = self.cfg, prompts_of(loaded)
        if self.kept is None:
            how = [cfg.teacher_tokens, cfg.teacher_temperature, cfg.view_seed if cfg.teacher_temperature else 0]
            context = getattr(teacher, "context", None)
            more = [] if context is None else [context.digest]
            self.kept = Kept.of(teacher, [*how, cfg.max_length, self.tokens.digest, *more])
        if any(prompt not in self.kept for prompt in prompts):
            # All of them, so that one killed half-way writes the same again.
            pick: Pick = likeliest
            if cfg.teacher_temperature:
                names = torch.tensor([key_of(*prompt) for prompt in prompts])
                pick = drawn(names, cfg.teacher_temperature, "teacher", cfg.view_seed, 0)
            self.kept.add(prompts, self._write(teacher, prompts, cfg.teacher_tokens, pick))
        return self._batch(loaded, prompts, [self.kept[prompt] for prompt in prompts])

    def _write(self, network: nn.Module, prompts: Sequence[Sequence[int]], most: int, pick: Pick) -> list[list[int]]:
        plain: Any = getattr(network, "network", network)  # a teacher is adapted
        limits = [min(most, max(1, self.cfg.max_length - len(prompt))) for prompt in prompts]
        return go_on(plain, as_read(network, prompts), limits, self.end, pick)

    def _batch(self, loaded: Loaded, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Loaded:
        made = [(np.array([*prompt, *answer]), np.arange(len(prompt) + len(answer)) >= len(prompt))
                for prompt, answer in zip(prompts, answers, strict=True)]  # fmt: skip
        rows, device = [len(answer) for answer in answers], loaded.index.device
        index = first_rows(loaded).repeat_interleave(torch.tensor(rows)).to(device)
        labels = torch.tensor([token for answer in answers for token in answer], dtype=torch.int64, device=device)
        return Loaded(tree.to(padded(made), device), labels, index, OWN, rows)


def first_rows(loaded: Loaded) -> Tensor:
    """Return the (B,) numbers of the samples' first rows, on the CPU."""
    assert loaded.rows is not None
    rows = torch.tensor(loaded.rows)
    return loaded.index.cpu()[rows.cumsum(0) - rows]


def prompts_of(loaded: Loaded) -> list[list[int]]:
    """Return the tokens of each sample that stand before its last answer; of a text that is all learnt, the half."""
    inputs, found = tree.apply(loaded.inputs, Tensor.cpu), []
    for ids, following, length in zip(inputs["ids"].tolist(), inputs["next"], inputs["lengths"].tolist(), strict=True):
        # Where an answer's first token follows, and none does before.
        begins = following & ~torch.cat([following.new_zeros(1), following[:-1]])
        first = int(begins.nonzero()[-1]) + 1
        found.append(ids[: first if first > 1 else max(1, length // 2)])
    return found
