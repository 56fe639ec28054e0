"""A student of whose weights only low-rank updates are trained, and which ships with these added in.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: W + (alpha / r) B A, A random, B zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from kdtool.errors import InputError
from kdtool.randomness import seeded_libraries
from kdtool.tasks.language.models.built import Built
from kdtool.tasks.language.options import Lora

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""What peft calls a layer's own weights, and the two factors of its update."""


def add_updates(built: Built, cfg: Lora, seed: int) -> None:
    """Put updates beside every linear layer but the head; they alone will train.

    Args:
        built: a student with the weights it starts from; changed in place.
        cfg: ``student.lora``.
        seed: of the first factors.

    Raises:
        InputError: peft is missing, or the student starts from scratch.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("student.lora needs a package that is missing: pip install 'kdtool[lora]'.") from error
    if built.origin == "scratch":
        raise InputError(
            f"student.lora.rank={cfg.rank}: {built.name} starts from scratch, so its weights have to be trained "
            "themselves; leave it out, or give a trained student."
        )
    wanted = peft.LoraConfig(
        r=cfg.rank, lora_alpha=cfg.alpha, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    with seeded_libraries("lora", seed):
        peft.inject_adapter_in_model(wanted, built.module)
    built.update_scale = cfg.alpha / cfg.rank
    names = [name for name, _ in built.module.named_parameters()]
    built.fixed = frozenset(name for name in names if not name.endswith((DOWN, UP)))
    trained = sum(p.numel() for name, p in built.module.named_parameters() if name not in built.fixed)
    built.notes.append(f"student {built.name}: updates of rank {cfg.rank} train, {trained:,} numbers; they ship merged")


def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return weights with the updates added in, named as in the plain network.

    Args:
        state: of a network with updates; of one without any it comes back as it is.
        scale: alpha / r.
    """
    found = {}
    for name, tensor in state.items():
        if name.endswith((DOWN, UP)):
            continue
        layer, base, kind = name.rpartition(BASE)
        if base and kind == "weight":
            tensor = tensor + scale * (state[layer + UP] @ state[layer + DOWN]).to(tensor.dtype)
        found[f"{layer}.{kind}" if base else name] = tensor
    return found


def with_none(plain: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a plain network's weights as those of one with updates, all of which are zero.

    Args:
        plain: weights by name.
        like: the state of a network with updates.
    """
    found = {}
    for name, tensor in like.items():
        if name.endswith(UP):
            found[name] = tensor.new_zeros(tensor.shape)
        else:
            found[name] = tensor if name.endswith(DOWN) else plain[name.replace(BASE, ".")]
    return found
