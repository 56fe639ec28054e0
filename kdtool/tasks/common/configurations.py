"""What a recipe's ``model_args`` say of a configuration of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdtool.errors import InputError, did_you_mean


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
