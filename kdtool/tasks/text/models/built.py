"""A built text network: tapped, and with the tokenizer that makes its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.method import Layer, TapSpec
from kdtool.tasks import task
from kdtool.tasks.common.hooked import Hooked, Point, stage_index
from kdtool.tasks.text.models.tokens import Tokens

DRY_LENGTH = 12
"""Tokens of a text in dry forwards."""

TOKENS = "tokens"
"""The tap that stands for the word vectors, as (B, L, D)."""

ATTENTION = "attention"
PROJECTIONS = {
    "queries": ("query", "q_proj", "q_lin", "query_proj"),
    "keys": ("key", "k_proj", "k_lin", "key_proj"),
    "values": ("value", "v_proj", "v_lin", "value_proj"),
}
"""What a layer's self-attention is tapped by, before a depth: "attention:0.5" is (B, H, L, L), the maps of the layer in
the middle, and "queries:0.5", "keys:0.5" and "values:0.5" are (B, L, D) of all heads in a row, each with the names that
encoders have for the module that gives it."""

Inputs = dict[str, dict[str, Tensor]]
"""By a tokenizer's key "ids" (B, L) int64, "mask" (B, L) bool, True at real tokens, and "types" (B, L) int64."""


@dataclass(frozen=True)
class Parts:
    """Where a network's layers are.

    Attributes:
        stages: modules that give token sequences, shallow to deep.
        words: the module that gives the word vectors.
        head: the layer whose input is the embedding.
        inside: by what a tap calls it ("attention", "queries", ...) a module of each stage; what none has is missing.
    """

    stages: tuple[str, ...]
    words: str
    head: str
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class TextNetwork(Hooked):
    """A tapped text network: a tree of ``Inputs`` -> logits, taps, and the mask of token sequences.

    Args:
        built: the network and its tokenizer.
        taps: what to tap.
    """

    def __init__(self, built: Built, taps: TapSpec | None):
        self.parts, self.key, self.own = built.parts, built.tokens.digest, built.kind == "transformers"
        self.mapped = False
        head = Point(built.parts.head, before=True)
        super().__init__(built.module, taps, stages=built.parts.stages, embedding=head, dry_inputs=built.dry_inputs)

    def point(self, layer: Layer) -> tuple[str, Point]:
        """Return the name of a layer's feature, and where it is found."""
        if layer == TOKENS:
            return TOKENS, Point(self.parts.words)
        if isinstance(layer, str) and layer.partition(":")[0] in (ATTENTION, *PROJECTIONS):
            return self._inside(layer)
        return super().point(layer)

    def _inside(self, layer: str) -> tuple[str, Point]:
        """Return the point of a layer's self-attention that "KIND:DEPTH" stands for."""
        kind, _, said = layer.partition(":")
        modules = self.parts.inside.get(kind)
        if not modules:
            raise InputError(f"cannot tap {layer!r}: this network has no self-attention whose {kind} can be read.")
        try:
            where: int | float = float(said) if "." in said else int(said)
        except ValueError as error:
            raise InputError(f"{layer!r}: expected a number or a depth in [0, 1] after '{kind}:'.") from error
        index = stage_index(where, len(modules))
        if kind == ATTENTION and not self.mapped:  # the fused kernels never have the maps
            self.module.set_attn_implementation("eager")  # type: ignore[operator]
            self.mapped = True
        return f"{kind}:{index}", Point(modules[index], item=1 if kind == ATTENTION else None)

    def call(self, inputs: Inputs) -> Tensor:
        """Return the plain network's (B, K) logits."""
        own = inputs[self.key]
        if self.own:
            types = {"token_type_ids": own["types"]} if self.takes_types else {}
            found: Tensor = self.module(input_ids=own["ids"], attention_mask=own["mask"].long(), **types).logits
            return found
        found = self.module(own["ids"], own["mask"])
        return found

    @property
    def takes_types(self) -> bool:
        """Whether it tells the tokens of a pair's second text apart."""
        return self.own and bool(getattr(self.module.config, "type_vocab_size", 0))

    def feature(self, key: str, tensor: Tensor, inputs: Inputs) -> Tensor:
        """Return the feature, zero where there is padding."""
        mask_BL = inputs[self.key]["mask"]
        if tensor.ndim == 4:
            return tensor * (mask_BL[:, None, :, None] & mask_BL[:, None, None, :])
        return tensor * mask_BL.unsqueeze(2) if tensor.ndim == 3 else tensor

    def mask(self, inputs: Inputs) -> Tensor:
        """Return the (B, L) mask of the tokens."""
        return inputs[self.key]["mask"]


@dataclass
class Built(task.Built):
    """A text network.

    Attributes:
        tokens: its tokenizer.
        parts: where its layers are.
        kind: "transformers", "plain" (kdtool's own small ones) or "file" (a user's own).
        source: ``path/to/file.py:function`` of a user's own architecture, else None.
        base: what transformers opened it from, else None.
    """

    tokens: Tokens = field(kw_only=True)
    parts: Parts = field(kw_only=True)
    kind: str = field(kw_only=True)
    source: str | None = field(default=None, kw_only=True)
    base: str | None = field(default=None, kw_only=True)

    input_keys = ("tokenizer", "max_length")

    def tapped(self, taps: TapSpec | None = None) -> TextNetwork:
        """Return the network with taps."""
        return TextNetwork(self, taps)

    def dry_inputs(self, count: int, length: int = DRY_LENGTH) -> Inputs:
        """Return texts of a few tokens, or of so many, fixed numbers."""
        device = next(self.module.parameters()).device
        drawn = torch.randint(self.tokens.size, (count, length), generator=torch.Generator().manual_seed(0))
        ids = drawn.to(device)
        own = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "types": torch.zeros_like(ids)}
        return {self.tokens.digest: own}

    def dry_input(self) -> str:
        """Return the length of a dry text."""
        return f"{DRY_LENGTH} tokens"

    def identity(self) -> dict[str, Any]:
        """Return architecture, arguments, classes and tokenizer."""
        return {
            "architecture": self.base or self.name,
            "model_args": self.model_args,
            "source": self.source_hash,
            "classes": self.num_classes,
            "tokenizer": self.tokens.digest,
            "max_length": self.tokens.max_length,
        }

    def describe(self) -> dict[str, Any]:
        """Return the vocabulary and the longest text."""
        return {"vocab_size": self.tokens.size, "max_length": self.tokens.max_length}


def parts_of(module: nn.Module, num_classes: int, name: str) -> Parts:
    """Return where the layers of an encoder of transformers are.

    The stages are the layers of its longest stack, the head is the last linear layer with one value a class.

    Raises:
        InputError: it has no such stack or layer.
    """
    stacks = [
        (path, len(child)) for path, child in module.named_modules() if isinstance(child, nn.ModuleList) and len(child)
    ]
    heads = [path for path, child in module.named_modules()
             if isinstance(child, nn.Linear) and child.out_features == num_classes]  # fmt: skip
    if not stacks or not heads:
        raise InputError(f"{name} is no encoder with layers and a classifier that kdtool can read.")
    stack, count = max(stacks, key=lambda each: each[1])
    stages = tuple(f"{stack}.{i}" for i in range(count))
    vectors = module.get_input_embeddings()  # type: ignore[operator]
    words = next(path for path, child in module.named_modules() if child is vectors)
    whole = words.rpartition(".")[0]
    if type(module.get_submodule(whole)).__name__.endswith("Embeddings"):
        words = whole
    layer = module.get_submodule(stages[0])
    inside = {kind: tuple(f"{stage}.{path}" for stage in stages) for kind, path in _inside(layer)}
    return Parts(stages, words, heads[-1], inside)


def _inside(layer: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield what a layer's self-attention can be tapped by, and the module within the layer."""
    for path, child in layer.named_modules():
        if type(child).__name__.endswith("SelfAttention"):
            yield ATTENTION, path
            break
    for kind, names in PROJECTIONS.items():
        for path, child in layer.named_modules():
            if isinstance(child, nn.Linear) and path.rpartition(".")[2] in names:
                yield kind, path
                break
