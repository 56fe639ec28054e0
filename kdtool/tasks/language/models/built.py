"""A built language model: tapped, its head kept apart, and with the tokenizer that makes its inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdtool.engine.rows import Deferred
from kdtool.errors import InputError
from kdtool.method import TapSpec
from kdtool.tasks import task
from kdtool.tasks.common.hooked import Hooked, Point
from kdtool.tasks.language.models.layout import Layout, apart, packed
from kdtool.tasks.language.models.tokens import Tokens

if TYPE_CHECKING:
    from kdtool.tasks.language.context import Context

DRY_LENGTH = 12
"""Tokens of a sample in dry forwards."""

Inputs = dict[str, Tensor]
"""``ids`` (B, L) int64, ``next`` (B, L) bool, where the token that follows is learnt: the rows of a loss, sample by
sample; and ``lengths`` (B,) int64, how many tokens of each are real, those at the front."""


class Head(nn.Module):
    """The last layer of a language model and what some do to its logits.

    Args:
        layer: hidden states -> logits.
        scale: factor of the logits.
        cap: c of c·tanh(logits / c) (Gemma Team, "Gemma 2", 2024, section 2); None: none.
    """

    def __init__(self, layer: nn.Module, scale: float, cap: float | None):
        super().__init__()
        self.layer, self.scale, self.cap = layer, scale, cap

    def forward(self, hidden_RD: Tensor) -> Tensor:
        """Return (R, V) logits."""
        logits: Tensor = self.layer(hidden_RD)
        logits = logits * self.scale if self.scale != 1.0 else logits
        return torch.tanh(logits / self.cap) * self.cap if self.cap else logits


class LanguageNetwork(Hooked):
    """A tapped language model: a batch's ``Inputs`` -> deferred logits and taps, both by row.

    Args:
        built: the network.
        taps: what to tap.
    """

    def __init__(self, built: Built, taps: TapSpec | None):
        self.packing, self.classes = built.packing, built.num_classes
        trunk = Point(built.trunk)

        def dry_inputs(count: int) -> Layout:
            return self.laid(built.dry_inputs(count))

        super().__init__(built.module, taps, stages=built.stages, embedding=trunk, dry_inputs=dry_inputs)
        self.fixed = [f"module.{name}" for name in built.fixed]

    def laid(self, inputs: Inputs | Layout) -> Layout:
        """Return how a batch's samples lie in sequences."""
        if isinstance(inputs, Layout):
            return inputs
        if self.packing:
            dtype = next(self.module.parameters()).dtype
            return packed(inputs["ids"], inputs["next"], inputs["lengths"].tolist(), self.packing, dtype)
        return apart(inputs["ids"], inputs["next"])

    def forward(self, inputs: Inputs | Layout) -> tuple[Any, ...]:
        """Return deferred (R, V) logits and, per role, (R, D) features or a list of them."""
        return super().forward(self.laid(inputs))

    def call(self, inputs: Layout) -> Any:
        """Return the deferred logits of the rows."""
        hidden = self.module.base_model(  # type: ignore[operator]
            input_ids=inputs.ids, use_cache=False, **inputs.more
        ).last_hidden_state
        return Deferred(inputs.of(hidden), self.head, self.classes)

    @property
    def head(self) -> nn.Module:
        """What maps the last hidden states to logits."""
        return head_of(self.module)

    def feature(self, key: str, tensor: Tensor, inputs: Layout) -> Tensor:
        """Return a feature's rows."""
        if tensor.ndim != 3 or tensor.shape[:2] != inputs.ids.shape:
            raise InputError(
                f"cannot tap {key!r}: of a language model only what has a value for every token can be read, and this "
                f"is {tuple(tensor.shape)} for {tuple(inputs.ids.shape)} tokens."
            )
        return inputs.of(tensor)


def head_of(module: nn.Module) -> nn.Module:
    """Return what maps a language model's last hidden states to logits."""
    layer: nn.Module = module.get_output_embeddings()  # type: ignore[operator]
    config: Any = module.config
    # Cohere multiplies by logit_scale, Granite divides by logits_scaling.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return layer if scale == 1.0 and not cap else Head(layer, scale, cap)


@dataclass
class Built(task.Built):
    """A language model.

    Attributes:
        tokens: the tokenizer of its inputs.
        trunk: the module that gives the head's input.
        stages: its layers, shallow to deep.
        packing: tokens of a sequence that several samples share; 0: each has its own.
        base: what transformers opened it from, else None.
        cut: what of the teacher it is, for a student that was cut out of one.
        fixed: names of parameters that are never trained.
        update_scale: factor of low-rank updates, where it has some.
        context: what it reads before samples where it teaches.
    """

    tokens: Tokens = field(kw_only=True)
    trunk: str = field(kw_only=True)
    stages: tuple[str, ...] = field(kw_only=True)
    packing: int = field(default=0, kw_only=True)
    base: str | None = field(default=None, kw_only=True)
    cut: dict[str, Any] | None = field(default=None, kw_only=True)
    fixed: frozenset[str] = field(default=frozenset(), kw_only=True)
    update_scale: float = field(default=0.0, kw_only=True)
    context: Context | None = field(default=None, kw_only=True)

    input_keys = ("tokenizer",)

    writes: ClassVar[bool] = True
    """Whether it can go on with a text; else only its words on some are there."""

    def tapped(self, taps: TapSpec | None = None) -> LanguageNetwork:
        """Return the network with taps."""
        return LanguageNetwork(self, taps)

    def dry_inputs(self, count: int) -> Inputs:
        """Return samples of a few tokens, fixed numbers; all but the first are learnt."""
        device = next(self.module.parameters()).device
        ids = torch.randint(self.num_classes, (count, DRY_LENGTH), generator=torch.Generator().manual_seed(0))
        following = torch.ones(count, DRY_LENGTH, dtype=torch.bool)
        following[:, -1] = False
        lengths = torch.full((count,), DRY_LENGTH)
        return {"ids": ids.to(device), "next": following.to(device), "lengths": lengths.to(device)}

    def dry_input(self) -> str:
        """Return the length of a dry sample."""
        return f"{DRY_LENGTH} tokens"

    def identity(self) -> dict[str, Any]:
        """Return architecture, arguments, classes and tokenizer, and what it reads before samples."""
        read = {"context": self.context.digest} if self.context is not None else {}
        return {
            "architecture": self.base or self.name,
            "model_args": self.model_args,
            "cut": self.cut,
            "classes": self.num_classes,
            "tokenizer": self.tokens.digest,
            **read,
        }

    def describe(self) -> dict[str, Any]:
        """Return the vocabulary's size."""
        return {"vocab_size": self.num_classes}

    @property
    def plain_config(self) -> Any:
        """Its configuration as it ships: of its own weights, wherever they are from."""
        config: Any = copy.deepcopy(self.module.config)
        for name in ("quantization_config", "_name_or_path"):
            if hasattr(config, name):
                delattr(config, name)
        return config


def parts_of(module: nn.Module, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the names of the module that gives the head's input, and of its layers.

    Raises:
        InputError: the network has no such parts.
    """
    found: Any = module
    trunk = found.base_model
    stacks = [(path, len(child)) for path, child in module.named_modules() if isinstance(child, nn.ModuleList)]
    if trunk is module or not stacks or found.get_output_embeddings() is None:
        raise InputError(f"{name} is no causal language model with layers and a head that kdtool can read.")
    stack, count = max(stacks, key=lambda each: each[1])
    path = next(path for path, child in module.named_modules() if child is trunk)
    return path, tuple(f"{stack}.{i}" for i in range(count))


def agree(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> bool:
    """Tell whether two ways to the same logits give them."""
    a, b = one().cpu().double(), other().cpu().double()
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max())))
