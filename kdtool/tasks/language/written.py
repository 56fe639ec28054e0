"""Answers that a network writes to a batch's prompts, in the place of the given ones.

The student's own: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, algorithm 1: one that learns
from given texts alone never sees what its own first mistake leads to. A teacher may have a say in them: Gu et al.,
"MiniLLM", ICLR 2024, Eq. 4. The teacher's: Kim & Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016; they are
written once, and kept for later runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.engine.job import OWN, Beside, Loaded
from kdtool.engine.processes import from_all, rank
from kdtool.randomness import key_of, uniforms
from kdtool.tasks.language.context import as_read
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.kept import Kept
from kdtool.tasks.language.models.tokens import Tokens
from kdtool.tasks.language.models.writing import Also, Pick, drawn, go_on, likeliest
from kdtool.tasks.language.options import Data
from kdtool.tasks.language.recent import Recent


class Answers:
    """Lets networks write a batch's answers: a ``kdtool.engine.job.Writer``.

    Attributes:
        recent: the student's newest answers, where some are kept.

    Args:
        cfg: the recipe's section ``data``.
        samples_of: tells the numbers of the samples that rows are of.
        tokens: the tokenizer.
        seed: of the run.
    """

    def __init__(self, cfg: Data, samples_of: Callable[[Tensor], Tensor], tokens: Tokens, seed: int):
        self.share, self.cfg, self.tokens, self.seed = cfg.on_policy, cfg, tokens, seed
        self.end: int | None = tokens.library.eos_token_id
        self.temperature = cfg.on_policy_temperature
        self.samples_of = samples_of
        self.by_teacher: Kept | None = None
        self.recent = Recent()

    @property
    def count(self) -> int:
        """How many samples are kept."""
        return len(self.recent)

    def __call__(
        self, network: nn.Module, loaded: Loaded, stage: str, step: int, beside: Beside | None = None, keep: int = 0
    ) -> Loaded:
        """Return the batch with the last answer of each sample drawn from the network, and from a teacher beside it.

        Plain texts stay as they are, labels and all, where ``data.on_policy_texts`` says so.
        """
        stay = texts_of(loaded) if self.cfg.on_policy_texts == "given" else [False] * loaded.samples
        asked = [number for number, given in enumerate(stay) if not given]
        every, first = prompts_of(loaded), first_rows(loaded)[asked]
        prompts = [every[number] for number in asked]
        answers: list[list[int]] = []
        if asked:
            pick = drawn(self.samples_of(first), self.temperature, f"on policy, {stage}", self.seed, step)
            answers = self._write(network, prompts, self.cfg.on_policy_tokens, pick, self._also(beside, prompts))
        if keep:  # by all processes, whatever their part has
            self.recent.add(list(zip(prompts, answers, first.tolist(), strict=True)), keep, (stage, step))
        own = self._own(prompts, answers, first, loaded.index.device) if asked else None
        return own if own is not None and len(asked) == loaded.samples else _beside(loaded, own, stay)

    def again(self, loaded: Loaded, stage: str, step: int) -> Loaded:
        """Return as many samples, of those that are kept, drawn without putting back as far as there are enough."""
        number = torch.arange(len(self.recent))
        order = uniforms(number, f"replay, {stage}", self.seed, step).argsort(stable=True).tolist()
        counts = from_all(loaded.samples)
        start = sum(counts[: rank()])
        taken = [self.recent[order[place % len(order)]] for place in range(start, start + loaded.samples)]
        prompts, answers, first = map(list, zip(*taken, strict=True))
        return self._own(prompts, answers, torch.tensor(first), loaded.index.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the answers that are kept."""
        return self.recent.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the answers that another one kept."""
        self.recent = Recent.of(state)

    def _also(self, beside: Beside | None, prompts: Sequence[Sequence[int]]) -> Also | None:
        if beside is None:
            return None
        network, theirs = _plain(beside.teacher), as_read(beside.teacher, prompts)
        return Also(network, theirs, beside.share, self.temperature, beside.context)

    def _own(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], first: Tensor, device: torch.device
    ) -> Loaded:
        found = self._batch(prompts, answers, first, device)
        return replace(found, labels=torch.full_like(found.labels, -1), drawn={"class": found.labels})

    def taught(self, teacher: nn.Module, loaded: Loaded) -> Loaded:
        """Return the batch with the last answer of each sample as the teacher has once written it."""
        cfg, prompts = self.cfg, prompts_of(loaded)
        if self.by_teacher is None:
            how = [cfg.teacher_tokens, cfg.teacher_temperature, cfg.view_seed if cfg.teacher_temperature else 0]
            context = getattr(teacher, "context", None)
            more = [] if context is None else [context.digest]
            self.by_teacher = Kept.of(teacher, [*how, cfg.max_length, self.tokens.digest, *more])
        if any(prompt not in self.by_teacher for prompt in prompts):
            # All of them, so that one killed half-way writes the same again.
            pick: Pick = likeliest
            if cfg.teacher_temperature:
                names = torch.tensor([key_of(*prompt) for prompt in prompts])
                pick = drawn(names, cfg.teacher_temperature, "teacher", cfg.view_seed, 0)
            self.by_teacher.add(prompts, self._write(teacher, prompts, cfg.teacher_tokens, pick))
        answers = [self.by_teacher[prompt] for prompt in prompts]
        return self._batch(prompts, answers, first_rows(loaded), loaded.index.device)

    def _write(
        self, network: nn.Module, prompts: Sequence[Sequence[int]], most: int, pick: Pick, also: Also | None = None
    ) -> list[list[int]]:
        limits = [min(most, max(1, self.cfg.max_length - len(prompt))) for prompt in prompts]
        return go_on(_plain(network), as_read(network, prompts), limits, self.end, pick, also)

    def _batch(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], first: Tensor, device: torch.device
    ) -> Loaded:
        made = [(np.array([*prompt, *answer]), np.arange(len(prompt) + len(answer)) >= len(prompt))
                for prompt, answer in zip(prompts, answers, strict=True)]  # fmt: skip
        rows = [len(answer) for answer in answers]
        index = first.repeat_interleave(torch.tensor(rows)).to(device)
        labels = torch.tensor([token for answer in answers for token in answer], dtype=torch.int64, device=device)
        return Loaded(tree.to(padded(made), device), labels, index, OWN, rows)


def _plain(network: nn.Module) -> Any:
    """Return a tapped network, or that inside of a teacher, which is adapted."""
    return getattr(network, "network", network)


def _beside(loaded: Loaded, own: Loaded | None, stay: Sequence[bool]) -> Loaded:
    """Return a batch with those of its samples as they are that stay, and the others as a network wrote them."""
    written = iter([] if own is None else own.parts([1] * own.samples))
    given = [replace(each, drawn={"class": torch.full_like(each.labels, -1)}) for each in loaded.parts([1] * len(stay))]
    parts = [each if stays else next(written) for each, stays in zip(given, stay, strict=True)]
    device = loaded.index.device
    return Loaded(
        tree.to(padded([_sample(each) for each in parts]), device),
        torch.cat([each.labels for each in parts]),
        torch.cat([each.index for each in parts]),
        OWN,
        [len(each.index) for each in parts],
        drawn={"class": torch.cat([each.drawn["class"] for each in parts])},
    )


def _sample(one: Loaded) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch's only sample: its (L,) tokens, and which are learnt."""
    inputs = tree.apply(one.inputs, Tensor.cpu)
    length = int(inputs["lengths"][0])
    learnt = np.concatenate([[False], inputs["next"][0, : length - 1].numpy()])
    return inputs["ids"][0, :length].numpy(), learnt


def texts_of(loaded: Loaded) -> list[bool]:
    """Tell which samples are plain texts: those that are learnt from their second token on."""
    found: list[bool] = loaded.inputs["next"][:, 0].tolist()
    return found


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
