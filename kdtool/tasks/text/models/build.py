"""Text networks from what a recipe names: an architecture, weights, a class count and a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError, did_you_mean, first_line
from kdtool.randomness import seeded_libraries
from kdtool.recipe.names import is_own_file
from kdtool.tasks.common import extra
from kdtool.tasks.common.configurations import from_scratch, refuse_unknown
from kdtool.tasks.common.own_code import load_factory
from kdtool.tasks.common.replaced import beside, put_in_beside
from kdtool.tasks.common.weight_files import load_into
from kdtool.tasks.common.weights import WEIGHTS, digest
from kdtool.tasks.text.models import plain
from kdtool.tasks.text.models.built import DRY_LENGTH, Built, Parts, parts_of
from kdtool.tasks.text.models.tokens import Tokens

CONFIGS: dict[str, dict[str, Any]] = {
    "transformer-tiny": {
        "num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512,
    },
    "transformer-mini": {
        "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
    },
}  # fmt: skip
"""BERTs from scratch: the tiny and the mini one of Turc et al., "Well-Read Students Learn Better", 2019, table 1."""

RESERVED = 2
"""Positions that some encoders keep for themselves, RoBERTa's and those made of it."""

OWN = (*plain.NETWORKS, *CONFIGS)
"""Names that need no hub, and no folder."""


@dataclass(frozen=True)
class Request:
    """What a network is to be.

    Attributes:
        model: a name of ``OWN``, a hub name or local folder, or ``path/to/file.py:function``.
        weights: "auto", "pretrained", "scratch", or a file.
        num_classes: K.
        tokens: what makes its inputs.
        model_args: further arguments of its constructor or configuration.
        seed: of the first weights.
        role: what the network is for; also decides the first weights.
        weights_key: which of a file's weights, see ``kdtool.tasks.common.weight_files.open_state``.
        new_head: keep of a file's weights all but the head.
    """

    model: str
    weights: str
    num_classes: int
    tokens: Tokens
    model_args: dict[str, Any]
    seed: int
    role: str
    weights_key: str | None = None
    new_head: bool = False

    @property
    def weights_file(self) -> str | None:
        """The weights' path, None where they are named by a word."""
        return None if self.weights in ("auto", "pretrained", "scratch") else self.weights


def is_own(model: str) -> bool:
    """Tell whether a model has no tokenizer of its own: one of kdtool's names, or a user's own file."""
    return model in OWN or is_own_file(model)


def build(request: Request) -> Built:
    """Return a network that is ready to run, with its first weights.

    First weights are a function of (role, seed); building leaves no trace in the global generators.

    Raises:
        InputError: unknown name, weights that cannot be had or do not fit.
    """
    if request.weights == "pretrained" and is_own(request.model):
        raise InputError(f"{request.model} has no pretrained weights; give a weights file, or scratch.")
    built = _built(request)
    if request.weights_file is not None:
        load_into(built, request.weights_file, [built.parts.head], request.weights_key, request.new_head)
    _check_words(built)
    _check_runs(built)
    return built


def _built(request: Request) -> Built:
    if request.model in plain.NETWORKS:
        return _plain(request)
    if request.model in CONFIGS:
        config = _config_of(request)
        return _encoder(request, _from_config(request, config), "scratch")
    if is_own_file(request.model):
        return _own(request)
    return _pretrained(request)


def _plain(request: Request) -> Built:
    cls = plain.NETWORKS[request.model]
    with seeded_libraries("init", request.role, request.seed):
        try:
            module = cls(request.tokens.size, request.num_classes, **request.model_args)
        except Exception as error:  # sizes that are none fail in as many ways as there are layers
            raise InputError(
                f"{request.model} with model_args {request.model_args} cannot be built ({first_line(error)})."
            ) from error
    parts = Parts(cls.stages, "embedding", "head")
    return _as_built(request, module, parts, "plain")


def _own(request: Request) -> Built:
    factory = load_factory(request.model)
    tokens = request.tokens
    with seeded_libraries("init", request.role, request.seed):
        given = {**request.model_args, "vocab_size": tokens.size, "pad_id": tokens.pad}
        module = factory.build(request.num_classes, given)
    built = _as_built(request, module, Parts((), "", ""), "file")
    built.source_hash, built.source = factory.source_hash, f"{factory.path}:{factory.function}"
    _check_runs(built)
    built.parts = _seen(built)
    return built


def _seen(built: Built) -> Parts:
    """Return where the layers of a user's own network are: its parts that give a value a token, in their order."""
    found: list[str] = []
    handles = []
    for name, child in built.module.named_children():

        def note(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 3 and output.shape[:2] == (2, DRY_LENGTH):
                found.append(name)

        handles.append(child.register_forward_hook(note))
    try:
        with undisturbed(built.module):
            built.tapped()(built.dry_inputs(2))
    finally:
        for handle in handles:
            handle.remove()
    linear = [name for name, child in built.module.named_modules()
              if isinstance(child, nn.Linear) and child.out_features == built.num_classes]  # fmt: skip
    words = [name for name, child in built.module.named_modules() if isinstance(child, nn.Embedding)]
    return Parts(tuple(dict.fromkeys(found)), words[0] if words else "", linear[-1] if linear else "")


def _config_of(request: Request) -> Any:
    transformers = extra.transformers()
    sizes = {"vocab_size": request.tokens.size, "pad_token_id": request.tokens.pad, "num_labels": request.num_classes}
    longest = {"max_position_embeddings": max(512, request.tokens.max_length)}
    own = {**sizes, **longest, **CONFIGS[request.model]}
    return from_scratch(request.model, request.model_args, transformers.BertConfig, own)


def _from_config(request: Request, config: Any) -> nn.Module:
    transformers = extra.transformers()
    with seeded_libraries("init", request.role, request.seed), extra.quiet():
        try:
            module: nn.Module = transformers.AutoModelForSequenceClassification.from_config(config)
        except Exception as error:
            told = f" with model_args {request.model_args}" if request.model_args else ""
            raise InputError(f"{request.model}{told} cannot be built ({first_line(error)}).") from error
    return module


def _pretrained(request: Request) -> Built:
    """Return an encoder of a local folder or the hub, with a new classifier where it has none for these classes."""
    transformers = extra.transformers()
    name = request.model
    asked = {"trust_remote_code": False, "num_labels": request.num_classes, **request.model_args}
    with extra.quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(name, **asked)
        except Exception as error:
            raise InputError(_not_found(name, error)) from error
        refuse_unknown(name, request.model_args, config)
        layers = beside(Path(name) / WEIGHTS)
        if request.weights == "scratch" or request.weights_file is not None or layers:
            built = _encoder(request, _from_config(request, config), "scratch")
            if layers and request.weights_file is None:
                path = str(Path(name) / WEIGHTS)
                put_in_beside(built, path)
                if request.weights != "scratch":
                    load_into(built, path, [built.parts.head])
            return built
        with seeded_libraries("init", request.role, request.seed):
            try:
                module, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                    name, config=config, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
                    ignore_mismatched_sizes=True, output_loading_info=True,
                )  # fmt: skip
            except Exception as error:
                raise InputError(f"{name}: its weights cannot be had ({first_line(error)}).") from error
    built = _encoder(request, module, "pretrained")
    new = {*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])}
    built.needs_training = bool(new)
    if new:
        built.notes.append(
            f"{name}: {len(new)} tensors are new ({', '.join(sorted(new)[:3])}), and trained on the data"
        )
    built.weights_id = "sha256:" + digest(module.state_dict())
    return built


def _not_found(name: str, error: Exception) -> str:
    near = did_you_mean(name, OWN)
    where = f"the folder {name!r} holds no model of transformers" if Path(name).is_dir() else f"unknown model {name!r}"
    return (
        f"{where} ({first_line(error)}). {near} A model is one of {', '.join(OWN)}, an encoder of transformers "
        "by hub name or local folder, or path/to/file.py:FUNCTION."
    )


def _encoder(request: Request, module: nn.Module, origin: str) -> Built:
    built = _as_built(request, module, parts_of(module, request.num_classes, request.model), "transformers")
    built.origin, built.base = origin, None if request.model in CONFIGS else request.model
    return built


def _as_built(request: Request, module: nn.Module, parts: Parts, kind: str) -> Built:
    return Built(
        module,
        request.model,
        "scratch",
        num_classes=request.num_classes,
        model_args=request.model_args,
        tokens=request.tokens,
        parts=parts,
        kind=kind,
    )


def check_longest(built: Built) -> None:
    """Refuse a network that has no place for a text as long as they come.

    Raises:
        InputError: so it is.
    """
    longest = built.tokens.max_length
    places = getattr(getattr(built.module, "config", None), "max_position_embeddings", None)
    if built.kind == "plain" or (places is not None and longest <= places - RESERVED):
        return
    # Some encoders have no table of positions, whatever they say: one more than they say is tried.
    length = longest if places is None else min(longest, places + 1)
    try:
        with undisturbed(built.module):
            built.tapped()(built.dry_inputs(1, length))
    except Exception as error:
        raise InputError(
            f"{built.name} does not run on a text of {length:,} tokens ({first_line(error)}), and "
            f"data.max_length={longest} lets them be as long: lower it."
        ) from error


def _check_words(built: Built) -> None:
    """Refuse an encoder that has no word vector for some of its tokenizer's tokens.

    Raises:
        InputError: so it is.
    """
    if built.kind != "transformers":
        return
    vectors, size = built.module.get_input_embeddings(), built.tokens.size  # type: ignore[operator]
    rows = getattr(vectors, "num_embeddings", size)
    if size > rows:
        raise InputError(
            f"{built.name} has vectors for {rows:,} tokens, and its tokenizer has {size:,}: it is another network's. "
            "Leave student.tokenizer out, or name one that is no larger."
        )


def _check_runs(built: Built) -> None:
    """Run a network once on a few tokens.

    Raises:
        InputError: it fails, or does not give one value a class.
    """
    try:
        with undisturbed(built.module):
            found = built.tapped()(built.dry_inputs(2))[0]
    except Exception as error:
        raise InputError(f"{built.name} does not run on two texts ({first_line(error)}).") from error
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape != (2, built.num_classes):
        raise InputError(
            f"{built.name} gives {shape} for 2 texts instead of (2, {built.num_classes}): one value for each of the "
            f"data's {built.num_classes} classes."
        )
