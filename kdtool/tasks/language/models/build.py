"""Language models from what a recipe names: an architecture, weights and a tokenizer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError, did_you_mean, first_line
from kdtool.randomness import seeded_libraries
from kdtool.tasks.common import extra
from kdtool.tasks.common.configurations import from_scratch, refuse_unknown
from kdtool.tasks.common.weight_files import fit, load_state, mark_loaded
from kdtool.tasks.common.weights import digest
from kdtool.tasks.language.models.built import Built, agree, parts_of
from kdtool.tasks.language.models.tokens import TASK, Tokens, gguf
from kdtool.tasks.language.options import CONFIGS

WORDS = ("auto", "pretrained", "scratch")
"""What ``weights`` may be besides a file."""


@dataclass(frozen=True)
class Request:
    """What a network is to be.

    Attributes:
        model: a name of ``CONFIGS``, a hub name, a local folder or a .gguf file.
        weights: one of ``WORDS``, or a file.
        num_classes: V, the tokens that count.
        tokens: what makes its inputs.
        model_args: further values of its configuration.
        seed: of the first weights.
        role: what the network is for; also decides the first weights.
        longest: tokens of a sample at most.
        packing: as in ``Built``.
    """

    model: str
    weights: str
    num_classes: int
    tokens: Tokens
    model_args: dict[str, Any]
    seed: int
    role: str
    longest: int
    packing: int = 0

    @property
    def weights_file(self) -> str | None:
        """The weights' path, None where they are named by a word."""
        return None if self.weights in WORDS else self.weights


def is_own(model: str) -> bool:
    """Tell whether a model has no tokenizer and no weights of its own."""
    return model in CONFIGS


def build(request: Request) -> Built:
    """Return a network that is ready to run, with its first weights.

    First weights are a function of (role, seed); building leaves no trace in the global generators.

    Raises:
        InputError: unknown name, weights that cannot be had or do not fit, or a network whose logits are not what its
            head makes of its last hidden states.
    """
    if request.weights == "pretrained" and is_own(request.model):
        raise InputError(f"{request.model} has no pretrained weights; give a weights file, or scratch.")
    scratch = request.weights == "scratch" or request.weights_file is not None or is_own(request.model)
    config = _own_config(request) if is_own(request.model) else _config(request)
    if scratch:
        built = as_built(request, from_config(config, request), "scratch")
    else:
        built = as_built(request, _pretrained(request, config), "pretrained")
        built.needs_training = False
        built.weights_id = "sha256:" + digest(built.module.state_dict())
    if request.weights_file is not None:
        path = request.weights_file
        state = whole_state(built.module, load_state(path))
        fit(built.module, state, f"the weights in {path!r}", request.num_classes)
        mark_loaded(built, path)
    check(built, request.longest)
    return built


def _own_config(request: Request) -> Any:
    transformers = extra.transformers(TASK)
    end = request.tokens.library.eos_token_id
    sizes = {
        "vocab_size": request.num_classes, "max_position_embeddings": max(2048, request.longest),
        "tie_word_embeddings": True, "bos_token_id": request.tokens.library.bos_token_id, "eos_token_id": end,
        "pad_token_id": request.tokens.library.pad_token_id,
    }  # fmt: skip
    own = {**sizes, **CONFIGS[request.model]}
    return from_scratch(request.model, request.model_args, transformers.LlamaConfig, own)


def _config(request: Request) -> Any:
    transformers = extra.transformers(TASK)
    name, more = gguf(request.model)
    with extra.quiet():
        try:
            found = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **more, **request.model_args)
        except Exception as error:
            raise InputError(_not_found(request.model, error)) from error
    refuse_unknown(request.model, request.model_args, found)
    return found


def from_config(config: Any, request: Request) -> nn.Module:
    """Return a network of random weights.

    Raises:
        InputError: it cannot be built.
    """
    transformers = extra.transformers(TASK)
    with seeded_libraries("init", request.role, request.seed), extra.quiet():
        try:
            module: nn.Module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except Exception as error:  # sizes that are none fail in as many ways as there are layers
            told = f" with model_args {request.model_args}" if request.model_args else ""
            raise InputError(f"{request.model}{told} cannot be built ({first_line(error)}).") from error
    return module


def _pretrained(request: Request, config: Any) -> nn.Module:
    transformers = extra.transformers(TASK)
    name, more = gguf(request.model)
    silent = redirect_stderr(io.StringIO()) if more else nullcontext()  # a bar of its own
    with seeded_libraries("init", request.role, request.seed), extra.quiet(), silent:
        try:
            # Of a .gguf file transformers reads the configuration itself.
            given: dict[str, Any] = dict(more) or {"config": config, "use_safetensors": True}
            module, report = transformers.AutoModelForCausalLM.from_pretrained(
                name, trust_remote_code=False, dtype=torch.float32, output_loading_info=True, **given
            )
        except Exception as error:
            raise InputError(f"{request.model}: its weights cannot be had ({first_line(error)}).") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{request.model} is no trained causal language model: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}). Give another, or weights=scratch."
        )
    return _plain(module, request) if more else module


def _plain(module: nn.Module, request: Request) -> nn.Module:
    """Return a network read from a .gguf file as any other: transformers refuses to save what it calls quantised."""
    config: Any = module.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = from_config(config, request)
    plain.load_state_dict(module.state_dict())
    return plain


def _not_found(name: str, error: Exception) -> str:
    near = did_you_mean(name, list(CONFIGS))
    where = f"the folder {name!r} holds no model of transformers" if Path(name).is_dir() else f"unknown model {name!r}"
    return (
        f"{where} ({first_line(error)}). {near} A model is one of {', '.join(CONFIGS)}, a causal language model of "
        "transformers by hub name or local folder, or a .gguf file."
    )


def as_built(request: Request, module: nn.Module, origin: str) -> Built:
    """Return a module as a network of what was asked for, its vocabulary's padding cut off where it is a student's."""
    notes = []
    rows = int(module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    if rows < request.num_classes:
        raise InputError(
            f"{request.model} has {rows:,} word vectors for {request.num_classes:,} tokens: its tokenizer is of "
            "another model."
        )
    if request.role == "student" and rows > request.tokens.size:
        module.resize_token_embeddings(request.tokens.size)  # type: ignore[operator]
        notes.append(f"{request.model}: {rows - request.tokens.size:,} word vectors that no token has are cut off")
    trunk, stages = parts_of(module, request.model)
    return Built(
        module, request.model, origin, num_classes=request.num_classes, model_args=request.model_args, notes=notes,
        tokens=request.tokens, trunk=trunk, stages=stages, packing=request.packing,
        base=None if is_own(request.model) else request.model,
    )  # fmt: skip


def check(built: Built, longest: int) -> None:
    """Run a network once on a few tokens.

    Raises:
        InputError: it fails, its logits are not what its head makes of its last hidden states, it reads samples of one
            sequence together, or no text so long.
    """
    most = getattr(built.module.config, "max_position_embeddings", None)
    if most is not None and longest > most:
        raise InputError(f"{built.name} reads {most} tokens at most: lower data.max_length={longest}.")
    window = getattr(built.module.config, "sliding_window", None)
    if built.packing and window is not None and longest > window:
        raise InputError(
            f"{built.name} looks {window} tokens back, which packed samples of data.max_length={longest} cannot do: "
            "lower that, or leave out data.packing."
        )
    inputs, module = built.dry_inputs(2), built.module

    def plain() -> Tensor:
        logits: Tensor = module(input_ids=inputs["ids"], use_cache=False).logits
        return logits[:, :-1, : built.num_classes].flatten(0, 1)

    def by_row(packing: int) -> Tensor:
        logits: Tensor = replace(built, packing=packing).tapped()(inputs)[0].whole()
        return logits

    try:
        with undisturbed(module):
            same = agree(lambda: by_row(0), plain)
            packs = not built.packing or agree(lambda: by_row(inputs["ids"].numel()), plain)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{built.name} does not run on two samples ({first_line(error)}).") from error
    if not same:
        raise InputError(f"{built.name}: its logits are not what its head makes of its last hidden states.")
    if not packs:
        raise InputError(f"{built.name} does not keep samples of one sequence apart: leave out data.packing.")


def whole_state(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with those filled in that were left out because they are another's, such as a tied head's."""
    twins = shared(module)
    return {**state, **{name: state[of] for name, of in twins.items() if name not in state and of in state}}


def shared(module: nn.Module) -> dict[str, str]:
    """Return by name of a tensor that is another's, the first name that has it."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        of = first.setdefault(id(tensor), name)
        if of != name:
            found[name] = of
    return found
