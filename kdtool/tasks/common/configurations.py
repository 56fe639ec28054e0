"""What a recipe's ``model_args`` say of a configuration of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdtool.errors import InputError, did_you_mean, first_line


def refuse_unknown(model: str, given: Mapping[str, Any], config: Any) -> None:
    """Refuse values that a configuration does not have, which transformers leaves out, or keeps, without a word.

    Args:
        model: as the recipe names it.
        given: the recipe's ``model_args``.
        config: the model's configuration.

    Raises:
        InputError: there is one.
    """
    for key in given:
        if not hasattr(config, key) and not hasattr(config, f"_{key}"):  # as _attn_implementation
            raise InputError(f"{model} has no model_args {key!r}. {did_you_mean(key, sorted(config.to_dict()))}")


def from_scratch(model: str, given: Mapping[str, Any], kind: Any, sizes: Mapping[str, Any]) -> Any:
    """Return the configuration of a network that a task builds itself.

    Args:
        model: as the recipe names it.
        given: the recipe's ``model_args``.
        kind: the configuration's class.
        sizes: what the task says of it; ``given`` may say otherwise.

    Raises:
        InputError: it has no such values, or cannot have them.
    """
    refuse_unknown(model, given, kind())
    try:
        return kind(**{**sizes, **given})
    except Exception as error:  # each value fails in its own way
        raise InputError(f"{model} with model_args {given}: {first_line(error)}.") from error
