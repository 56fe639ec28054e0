"""The folder that ships: weights, tokenizer and class names, which open without kdtool."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.tasks.common.replaced import KEY, open_with
from kdtool.tasks.common.weights import WEIGHTS, write_weights
from kdtool.tasks.text.models import plain
from kdtool.tasks.text.models.built import Built

CONFIG, CODE = "config.json", "network.py"

PAIRS = "text_pairs"
"""The key of ``config.json`` that tells, by true, that a sample is a pair of texts."""


def save_student(
    folder: Path, built: Built, state: Mapping[str, Tensor], class_names: Sequence[str], pairs: bool = False
) -> Path:
    """Write ``model.safetensors``, ``config.json``, ``tokenizer.json`` and its settings; return the weights' path.

    A network of transformers is opened by ``AutoModelForSequenceClassification``, one of kdtool's own by
    ``network.py`` beside it, a user's own by its function.

    Args:
        folder: made where it does not exist.
        built: the network.
        state: the weights to ship, named as in ``built.module``.
        class_names: K names, in the order of the logits.
        pairs: it was trained on pairs of texts.

    Raises:
        RunError: they cannot be written.
    """
    beside = {CONFIG: _config(built, class_names, pairs), **built.tokens.files}
    if built.kind == "plain":
        beside[CODE] = Path(plain.__file__).read_text(encoding="utf-8")
    return write_weights(folder, state, beside)


def _config(built: Built, class_names: Sequence[str], pairs: bool) -> str:
    if built.kind == "transformers":
        config = copy.deepcopy(built.module.config)
        config.id2label = dict(enumerate(class_names))  # type: ignore[union-attr]
        config.label2id = {name: number for number, name in enumerate(class_names)}  # type: ignore[union-attr]
        if built.replaced:
            setattr(config, KEY, built.replaced)
        vars(config).pop(PAIRS, None)  # of the run that it is from
        if pairs:
            setattr(config, PAIRS, True)
        config.architectures = [type(built.module).__name__]  # type: ignore[union-attr]
        return str(config.to_json_string())  # type: ignore[union-attr, operator]
    about: dict[str, Any] = {
        "network": built.name if built.kind == "plain" else None,
        "vocab_size": built.tokens.size,
        "num_classes": built.num_classes,
        "label_names": list(class_names),
        "model_args": built.model_args,
        "max_length": built.tokens.max_length,
    }
    if built.replaced:
        about[KEY] = built.replaced
    if pairs:
        about[PAIRS] = True
    if built.kind == "file":
        about["kdtool"] = {"source": built.source, "sha256": built.source_hash}
    return json.dumps(about, indent=2, sort_keys=True) + "\n"


def how_to_open(built: Built, folder: Path) -> str:
    """Return the line of Python that opens a saved network."""
    if built.replaced:
        return _with_replaced(built, folder)
    if built.kind == "transformers":
        return f"transformers.AutoModelForSequenceClassification.from_pretrained({str(folder)!r})"
    if built.kind == "plain":
        return f"runpy.run_path({str(folder / CODE)!r})['load']({str(folder)!r})"
    path, _, function = str(built.source).rpartition(":")
    load = f"load_state_dict(safetensors.torch.load_file({str(folder / WEIGHTS)!r}))"
    return f"{_own_call(built, function)}  # of {path}; then {load}"


def _own_call(built: Built, function: str) -> str:
    given = {"num_classes": built.num_classes, **built.model_args}
    given |= {"vocab_size": built.tokens.size, "pad_id": built.tokens.pad}
    return f"{function}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _with_replaced(built: Built, folder: Path) -> str:
    weights = folder / WEIGHTS
    if built.kind == "transformers":
        config = f"transformers.AutoConfig.from_pretrained({str(folder)!r})"
        made = f"transformers.AutoModelForSequenceClassification.from_config({config})"
        return open_with(made, built.replaced, weights)
    if built.kind == "plain":
        arguments = "".join(f", {name}={value!r}" for name, value in built.model_args.items())
        network = f"runpy.run_path({str(folder / CODE)!r})['NETWORKS'][{built.name!r}]"
        return open_with(f"{network}({built.tokens.size}, {built.num_classes}{arguments})", built.replaced, weights)
    path, _, function = str(built.source).rpartition(":")
    return f"{open_with(_own_call(built, function), built.replaced, weights)}  # {function} of {path}"
