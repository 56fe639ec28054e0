"""A recipe's text networks: their tokenizers, built, and made to take one another's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.targets import config_of, network_folder
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.text.data.batches import OVERLAP
from kdtool.tasks.text.models.build import Request, build, check_longest, is_own
from kdtool.tasks.text.models.built import Built, Inputs, TextNetwork
from kdtool.tasks.text.models.plain import NETWORKS
from kdtool.tasks.text.models.tokens import FILE, Tokens, of_file, of_folder, trained_on


class Adapted(nn.Module):
    """A tapped teacher that takes the student's inputs, and gives its token sequences as the student's tokens.

    A student's token gets the mean of the teacher's tokens that share a character with it. Of attention maps, the
    weight that goes to a teacher's token is shared out among the student's that do.

    Args:
        network: takes its own tokenizer's numbers.
        key: of the student's tokenizer.
    """

    def __init__(self, network: TextNetwork, key: str):
        super().__init__()
        self.network, self.key = network, key

    @property
    def module(self) -> nn.Module:
        """The plain network, whose weights are stored."""
        return self.network.module

    def forward(self, inputs: Inputs) -> tuple[Any, ...]:
        logits, taps, mask = self.network(inputs)
        if self.network.key == self.key:
            return logits, taps, mask
        overlap_BLN = inputs[self.network.key][OVERLAP + self.key]
        met = {role: [_met(each, overlap_BLN) for each in tap] if isinstance(tap, list) else _met(tap, overlap_BLN)
               for role, tap in taps.items()}  # fmt: skip
        return logits, met, inputs[self.key]["mask"]


def _met(tap: Tensor, overlap_BLN: Tensor) -> Tensor:
    if tap.ndim < 3:
        return tap
    means_BLN = _shares(overlap_BLN).to(tap.dtype)
    if tap.ndim == 3:
        return means_BLN @ tap
    back_BNL = _shares(overlap_BLN.transpose(1, 2)).to(tap.dtype)
    return means_BLN.unsqueeze(1) @ tap @ back_BNL.unsqueeze(1)


def _shares(overlap: Tensor) -> Tensor:
    """Return rows that sum to 1, or are zero."""
    return overlap / overlap.sum(2, keepdim=True).clamp(min=1)


class Tokenizers:
    """The tokenizers of a recipe's networks; that of the data is trained once.

    Args:
        recipe: of the task's own type.
        data: the data set.
    """

    def __init__(self, recipe: Any, data: Any):
        self.recipe, self.data = recipe, data

    @property
    def own(self) -> Tokens:
        """A WordPiece trained on the training set."""
        cfg, train = self.recipe.data, self.data.train
        key = "WordPiece", cfg.vocab_size, cfg.max_length
        if key not in self.data.made:
            texts = (train.samples[row] for row in train.rows)
            parts = (part for text in texts for part in ([text] if isinstance(text, str) else text))
            self.data.made[key] = trained_on(parts, cfg.vocab_size, cfg.max_length)
        found: Tokens = self.data.made[key]
        return found

    def of(self, section: Any, asked: str = "auto", fallback: Any = None) -> Tokens:
        """Return the tokenizer of a network.

        Args:
            section: the recipe's, of the network.
            asked: "auto", "own", or a folder.
            fallback: the section of the network whose tokenizer it takes where it has none of its own.
        """
        longest = self.recipe.data.max_length
        if asked == "own":
            return self.own
        if asked != "auto":
            return of_file(Path(asked), longest)
        if not is_own(section.model):
            return of_folder(section.model, longest)
        beside = Path(section.weights).expanduser().parent / FILE
        if section.weights not in ("auto", "pretrained", "scratch") and beside.is_file():
            return of_file(beside, longest)
        return self.of(fallback) if fallback is not None else self.own


def named(section: Any) -> Any:
    """Return a network's section of the recipe as one that names network and weights, where it names a saved network.

    Raises:
        InputError: it names a run without a student, or a network whose code is a user's own.
    """
    folder = network_folder(section.model)
    if folder is None:
        return section
    config = config_of(folder)
    if "kdtool" in config:
        source = (config["kdtool"] or {}).get("source")
        raise InputError(
            f"{section.model} holds weights of an architecture of your own, {source}. Code is never run because a "
            f"folder names it: give {source} as the model and {folder / WEIGHTS} as its weights."
        )
    if config.get("network") not in NETWORKS:
        return replace(section, model=str(folder))
    weights = str(folder / WEIGHTS) if section.weights in ("auto", "pretrained") else section.weights
    args = {**(config.get("model_args") or {}), **section.model_args}
    return replace(section, model=config["network"], weights=weights, model_args=args)


def build_student(recipe: Any, data: Any) -> Built:
    """Return the student with its first weights, a function of ``train.seed``."""
    section, teachers = named(recipe.student), [named(each) for each in recipe.teacher]
    tokens = Tokenizers(recipe, data).of(section, section.tokenizer, teachers[0] if teachers else None)
    classes = len(data.class_names)
    built = build(
        Request(
            section.model,
            section.weights,
            classes,
            tokens,
            section.model_args,
            recipe.train.seed,
            "student",
            section.weights_key,
            section.new_head,
        )
    )
    check_longest(built)
    return built


def build_teachers(recipe: Any, data: Any, online: bool) -> list[Built]:
    """Return the teachers in order; first weights follow their own seed, a peer's the run's."""
    tokenizers, classes = Tokenizers(recipe, data), len(data.class_names)
    found = [
        build(
            Request(
                section.model,
                "scratch" if online and section.weights == "auto" and is_own(section.model) else section.weights,
                classes,
                tokenizers.of(section),
                section.model_args,
                recipe.train.seed if online else section.train.seed,
                f"peer{number}" if online else "teacher",
                section.weights_key,
                section.new_head,
            )
        )
        for number, section in enumerate(map(named, recipe.teacher))
    ]
    for built in found:
        check_longest(built)
    return found


def keys_of(networks: list[Built]) -> Mapping[str, Tokens]:
    """Return by key the tokenizers of networks, the first one's first."""
    return {each.tokens.digest: each.tokens for each in networks}
