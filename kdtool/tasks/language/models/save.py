"""The folder that ships: weights, configuration and tokenizer, which open in plain transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from kdtool.tasks.common.weights import WEIGHTS, write_weights
from kdtool.tasks.language.models.build import shared, whole_state
from kdtool.tasks.language.models.built import Built
from kdtool.tasks.language.models.lora import merged, with_none

CONFIG = "config.json"


def save_student(folder: Path, built: Built, state: Mapping[str, Tensor]) -> Path:
    """Write ``model.safetensors``, ``config.json`` and the tokenizer's files; return the weights' path.

    Args:
        folder: made where it does not exist.
        built: the network.
        state: the weights to ship, named as in ``built.module``.

    Raises:
        RunError: they cannot be written.
    """
    config = built.plain_config
    config.architectures = [type(built.module).__name__]
    config.dtype = "float32"
    twins = shared(built.module)  # transformers ties them again
    own = {name: tensor for name, tensor in merged(state, built.update_scale).items() if name not in twins}
    return write_weights(folder, own, {CONFIG: config.to_json_string(), **built.tokens.files})


def load(built: Built, folder: Path) -> None:
    """Give a network the weights that ``save_student`` wrote into a folder."""
    module = built.module
    module.load_state_dict(with_none(whole_state(module, load_file(folder / WEIGHTS)), module.state_dict()))


def how_to_open(folder: Path) -> str:
    """Return the line of Python that opens a saved network."""
    return f"transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})"
