"""A student cut out of its teacher: some of the layers, and the most active heads and hidden neurons of these.

Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (Minitron), NeurIPS 2024: heads
and neurons are ranked by their activations on a small set of samples, forward passes alone; here by the mean over
tokens of a head's L2 norm, and of a neuron's absolute value. Layers are kept evenly spaced, the first and the last
among them, as DistilBERT's students are made (Sanh et al., 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError
from kdtool.losses import widened
from kdtool.randomness import seeded_libraries
from kdtool.tasks.common import extra
from kdtool.tasks.common.weights import digest
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.data.dataset import LanguageData
from kdtool.tasks.language.models.build import check
from kdtool.tasks.language.models.built import Built, parts_of
from kdtool.tasks.language.models.tokens import TASK
from kdtool.tasks.language.options import Cut

SEEN = 16
"""Samples that heads and neurons are ranked on."""

QUERIES, GROUPS, BACK = ("q_proj",), ("k_proj", "v_proj"), "o_proj"
INNER, OUT = ("gate_proj", "up_proj"), "down_proj"
"""What the parts of a layer are called, in LLaMA and all that follow it."""


def cut_out(teacher: Built, wanted: Cut, data: LanguageData, seed: int) -> Built:
    """Return a student that is a part of a teacher.

    Args:
        teacher: with the weights it teaches with; not changed.
        wanted: which part.
        data: on whose training samples heads and neurons are ranked.
        seed: of what is drawn, which is nothing.

    Raises:
        InputError: the teacher has no weights yet, too few layers, or none that can be made narrower.
    """
    if teacher.needs_training:
        raise InputError(
            f"student.from_teacher: teacher {teacher.name} has no weights yet, and a part of it neither. Give a "
            "trained one (--teacher FOLDER, or teacher.weights=FILE)."
        )
    count = len(teacher.stages)
    if wanted.layers is not None and wanted.layers > count:
        raise InputError(
            f"student.from_teacher.layers={wanted.layers}: teacher {teacher.name} has {count}; valid: 1 to {count}."
        )
    layers = evenly(count, wanted.layers or count)
    config, state = copy.deepcopy(teacher.module.config), dict(teacher.module.state_dict())
    _shorten(config, layers)
    state = _kept_layers(state, teacher.stages, layers)
    if wanted.width < 1.0:
        _narrow(teacher, config, state, layers, wanted.width, data)
    transformers = extra.transformers(TASK)
    with seeded_libraries("init", "student", seed), extra.quiet():
        module: nn.Module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    module.load_state_dict(state)
    name = f"{teacher.name}:{len(layers)}-layers" + (f"-x{wanted.width:g}" if wanted.width < 1.0 else "")
    trunk, stages = parts_of(module, name)
    share = sum(p.numel() for p in module.parameters()) / sum(p.numel() for p in teacher.module.parameters())
    built = Built(
        module, name, "pretrained", num_classes=teacher.num_classes, model_args=teacher.model_args,
        notes=[f"student: layers {', '.join(map(str, layers))} of teacher {teacher.name}, {share:.0%} of its weights"],
        tokens=teacher.tokens, trunk=trunk, stages=stages, packing=teacher.packing, base=teacher.base,
        cut={"layers": layers, "width": wanted.width}, needs_training=False,
        weights_id="sha256:" + digest(module.state_dict()),
    )  # fmt: skip
    check(built, 1)
    return built


def evenly(count: int, kept: int) -> list[int]:
    """Return which layers stay: evenly spaced, the first and, of two or more, the last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, kept).round()})


def _shorten(config: Any, layers: list[int]) -> None:
    """Make a configuration one of these layers alone."""
    whole = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == whole and name.endswith(("layer_types", "no_rope_layers")):
            setattr(config, name, [value[i] for i in layers])
    config.num_hidden_layers = len(layers)


def _kept_layers(state: dict[str, Tensor], stages: tuple[str, ...], layers: list[int]) -> dict[str, Tensor]:
    stack = stages[0].rpartition(".")[0] + "."
    number = {old: new for new, old in enumerate(layers)}
    found = {}
    for name, tensor in state.items():
        if not name.startswith(stack):
            found[name] = tensor
            continue
        old, _, rest = name.removeprefix(stack).partition(".")
        if int(old) in number:
            found[f"{stack}{number[int(old)]}.{rest}"] = tensor
    return found


# --- width --------------------------------------------------------------------------------------------------------


def _narrow(
    teacher: Built, config: Any, state: dict[str, Tensor], layers: list[int], width: float, data: LanguageData
) -> None:
    """Keep a share of the heads and neurons of each layer, in a configuration and its weights."""
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = groups or heads
    kept_groups = max(1, round(width * groups))
    kept_neurons = max(1, round(width * config.intermediate_size))
    backs = [_part(teacher, layer, BACK) for layer in layers]
    outs = [_part(teacher, layer, OUT) for layer in layers]
    active = activities(teacher, [*backs, *outs], data)
    for new, (layer, back, out) in enumerate(zip(layers, backs, outs, strict=True)):
        there = f"{teacher.stages[new]}."
        by_group = active[back].pow(2).view(groups, -1, size).sum(2).sqrt().sum(1)
        group = by_group.topk(kept_groups).indices.sort().values
        neurons = active[out].topk(kept_neurons).indices.sort().values
        per = heads // groups
        query = _spread(_spread(group, per), size)
        short = teacher.stages[layer] + "."
        for kind, keep in ((QUERIES, query), (GROUPS, _spread(group, size)), (INNER, neurons)):
            for name in kind:
                _take(state, there + _part(teacher, layer, name).removeprefix(short), keep, 0)
        _take(state, there + back.removeprefix(short), query, 1)
        _take(state, there + out.removeprefix(short), neurons, 1)
    config.num_key_value_heads, config.num_attention_heads = kept_groups, kept_groups * (heads // groups)
    config.head_dim, config.intermediate_size = size, kept_neurons


def _part(teacher: Built, layer: int, name: str) -> str:
    """Return the full name of a layer's part."""
    stage = teacher.stages[layer]
    found = [path for path, child in teacher.module.get_submodule(stage).named_modules()
             if path.rpartition(".")[2] == name and isinstance(child, nn.Linear)]  # fmt: skip
    if len(found) != 1:
        raise InputError(
            f"student.from_teacher.width: layer {layer} of teacher {teacher.name} has no single {name}, so its heads "
            "and neurons cannot be told apart. Cut layers alone (student.from_teacher.layers)."
        )
    return f"{stage}.{found[0]}"


def _spread(numbers: Tensor, each: int) -> Tensor:
    """Return the places of blocks of so many, by the blocks' numbers."""
    return (numbers[:, None] * each + torch.arange(each)).flatten()


def _take(state: dict[str, Tensor], name: str, keep: Tensor, side: int) -> None:
    """Keep some outputs (side 0) or inputs (side 1) of a linear layer."""
    state[f"{name}.weight"] = state[f"{name}.weight"].index_select(side, keep)
    if side == 0 and f"{name}.bias" in state:
        state[f"{name}.bias"] = state[f"{name}.bias"].index_select(0, keep)


def activities(teacher: Built, names: list[str], data: LanguageData) -> dict[str, Tensor]:
    """Return by layer's name the mean over tokens of the absolute value of each of its inputs."""
    sums: dict[str, Tensor] = {}
    tokens = 0
    handles = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen = widened(given[0].detach()).abs().flatten(0, -2).sum(0)
            sums[name] = sums.get(name, torch.zeros(())) + seen

        return hook

    try:
        for name in names:
            handles.append(teacher.module.get_submodule(name).register_forward_pre_hook(note(name)))
        network = teacher.tapped()
        with undisturbed(network):
            for row in data.train.rows[:SEEN]:
                sample = data.train.samples[row]
                tokens += len(sample[0])
                network(padded([sample]))
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / tokens for name, total in sums.items()}
