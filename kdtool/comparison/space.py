"""Which of a method's options can be searched, and where: by their metadata, or as the user says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from kdtool import registry
from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe

_FACTOR = 10.0
"""An option with an open end is searched within this factor of its default, on a logarithmic scale."""


@dataclass(frozen=True)
class Range:
    """What one option is searched in: ``choices``, or numbers between ``low`` and ``high``."""

    key: str
    default: Any
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False

    def text(self) -> str:
        """Return it as people read it."""
        if self.choices is not None:
            return f"{self.key} in {', '.join(map(str, self.choices))}"
        return f"{self.key} in {self.low:g} .. {self.high:g}{' (logarithmic)' if self.log else ''}"

    def holds(self, value: Any) -> bool:
        """Tell whether a value lies in it; a default may not."""
        if self.choices is not None:
            return value in self.choices
        return value is not None and self.low <= value <= self.high

    def distribution(self) -> Any:
        """Return it as Optuna's."""
        from optuna import distributions

        if self.choices is not None:
            return distributions.CategoricalDistribution(self.choices)
        if self.whole:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


def space(recipe: Recipe, ranges: Mapping[str, str]) -> list[Range]:
    """Return what can be searched of the options of a recipe's methods.

    Booleans, choices and numbers that have a default are; layers, lists and options whose default depends on scale
    (None) only where ``ranges`` names them.

    Args:
        recipe: whose values are the defaults.
        ranges: "LOW:HIGH" or "A,B,C" by dotted key; those of other methods are passed over.

    Raises:
        InputError: a range is none, or does not fit its option.
    """
    found = []
    for name in recipes.parts(recipe):
        config: Any = registry.get(name).Config
        hints = get_type_hints(config)
        fields = {field.name: field for field in dataclasses.fields(config)}
        for key in ranges:
            if key.split(".")[0] == name and key.partition(".")[2] not in fields:
                raise InputError(f"--range {key}: method {name!r} has no such option. Valid: {', '.join(fields)}.")
        for field in fields.values():
            key = f"{name}.{field.name}"
            value = getattr(recipe.options[name], field.name)
            kinds = {each for each in (get_args(hints[field.name]) or (hints[field.name],)) if each is not type(None)}
            one = _named(key, value, ranges[key], kinds) if key in ranges else _declared(key, value, field, kinds)
            if one is not None:
                found.append(one)
    return found


def _named(key: str, value: Any, text: str, kinds: set[Any]) -> Range:
    low, colon, high = text.partition(":")
    try:
        if not colon:
            choices = tuple(recipes.split_override(f"{key}={each}")[1].read_as(next(iter(kinds))) for each in
                            text.split(","))  # fmt: skip
            if len(choices) > 1:
                return Range(key, value, choices=choices)
        elif kinds <= {int, float} and float(low) < float(high):
            log = float(low) > 0 and float(high) / float(low) >= _FACTOR
            return Range(key, value, low=float(low), high=float(high), whole=kinds == {int}, log=log)
    except ValueError:
        pass
    raise InputError(f"--range {key}={text} is no range. Valid: LOW:HIGH for a number, or A,B,C.")


def _declared(key: str, value: Any, field: Any, kinds: set[Any]) -> Range | None:
    """Return the range that an option's metadata give; None where they give none."""
    if value is None or len(kinds) > 1:
        return None
    if choices := field.metadata.get("choices"):
        return Range(key, value, choices=tuple(choices))
    if kinds == {bool}:
        return Range(key, value, choices=(False, True))
    if not kinds <= {int, float}:
        return None
    least, most, whole = field.metadata.get("min"), field.metadata.get("max"), kinds == {int}
    if least is not None and most is not None:
        return Range(key, value, low=least, high=most, whole=whole)
    if value <= 0:
        return None
    low, high = max(least or 0.0, value / _FACTOR), value * _FACTOR
    if whole:
        low, high = max(1, round(low)), round(high)
    return Range(key, value, low=low, high=high, whole=whole, log=True)
