"""Typed sections from plain data: unknown keys, wrong types and values out of range are refused by their full name.

A section is a dataclass whose fields are declared with ``kdtool.option``: a part of ``schema`` or a method's
``Config``. OmegaConf converts and checks each value; what it is not asked to do (interpolation, resolvers, missing
values) is refused before.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import math
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kdtool.errors import InputError
from kdtool.recipe import yaml_file as recipe_file

T = TypeVar("T")

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    Path: ("a path", "paths"),
    Any: ("a value", "values"),
}


class Typed(str):
    """A value as somebody typed it on the command line: text until its key's type is known, then perhaps YAML."""

    def parsed(self) -> Any:
        """Return what the text says as YAML, or the text itself where it is no YAML."""
        try:
            return recipe_file.parse(self, "value")
        except InputError:
            return str(self)

    def read_as(self, hint: Any) -> Any:
        """Return the value for a key of type ``hint``: plain text stays as it is, whatever it looks like."""
        if set(_members(hint)) <= {str, type(None)}:
            return None if _optional(hint) and self in ("null", "~") else str(self)
        return self.parsed()


def build(cls: type[T], raw: Any, path: str, keys: list[str] | None = None) -> T:
    """Return an instance of the section ``cls`` from plain data; keys not given keep their defaults.

    Args:
        cls: the dataclass.
        raw: a mapping of plain data.
        path: the section's dotted name, for messages ("" for the recipe itself).
        keys: dotted names to choose from when a key is misspelt; default: those of ``cls``.

    Raises:
        InputError: an unknown key, a value of the wrong type, out of range or not among the choices.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{path or 'the recipe'} is a section with keys of its own; got {_given(raw)}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    keys = keys if keys is not None else list(key_names(cls, path))
    for name in raw:
        if name not in fields:
            raise unknown_key(_join(path, name), keys)
    hints = get_type_hints(cls)
    given = {k: v.read_as(hints[k]) if isinstance(v, Typed) else v for k, v in raw.items()}
    leaves = {name: value for name, value in given.items() if _sections_of(hints[name]) == (None, None)}
    try:
        values = _converted(cls, leaves, hints)  # all at once, which takes a tenth of the time
    except ValueError:
        values = {}
    for name, value in given.items():
        if name not in values:
            values[name] = _value(cls, name, value, hints, _join(path, name), keys, fields[name])
        _check_range(values[name], fields[name], _join(path, name))
    return cls(**values)


def _value(
    cls: type, name: str, value: Any, hints: Mapping[str, Any], path: str, keys: list[str],
    field: dataclasses.Field[Any],
) -> Any:  # fmt: skip
    hint = hints[name]
    section, item = _sections_of(hint)
    if section is not None:
        return None if value is None and _optional(hint) else build(section, value, path, keys)
    if item is not None:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{path} is a list of sections; got {_given(value)}.")
        return [build(item, each, f"{path}.{i}", keys) for i, each in enumerate(value)]
    try:
        return _converted(cls, {name: value}, hints)[name]
    except ValueError:
        # The library's message names its own types and only a part of the path.
        about = f" It is: {field.metadata['help']}." if field.metadata.get("help") else ""
        raise InputError(
            f"{path}: expected {describe(hint)}{_range(field, ', ')}, got {_given(value)}.{about}"
        ) from None


def _sections_of(hint: Any) -> tuple[type | None, type | None]:
    """Return the section that a key is, and the section of which it is a list."""
    return section_of(hint), section_of(list_item(hint))


def _converted(cls: type, values: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a section's keys as their types have them.

    Raises:
        ValueError: one of them cannot be had as its type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ready = {}
    for name, value in values.items():
        hint = hints[name]
        if value == "none" and _optional(hint) and str not in _members(hint):
            value = None
        if _hides_bool(value, hint):
            raise ValueError(name)
        ready[name] = _parsed_inside(value)
    try:
        whole = OmegaConf.to_container(OmegaConf.merge(_structured(cls), ready))
    except (OmegaConfBaseException, TypeError, AssertionError) as cause:
        raise ValueError(str(cause)) from cause
    return {name: whole[name] for name in ready}  # type: ignore[index, call-overload]


@functools.cache
def _structured(cls: type) -> Any:
    """Return a section's defaults with their types, as the library has them; making them takes longer than a merge."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(cls)


def _parsed_inside(value: Any) -> Any:
    """Parse what was typed for single keys of a free mapping (``student.model_args.drop_rate=0.1``)."""
    if isinstance(value, Typed):
        return value.parsed()
    if isinstance(value, Mapping):
        return {key: _parsed_inside(each) for key, each in value.items()}
    return [_parsed_inside(each) for each in value] if isinstance(value, list) else value


def _hides_bool(value: Any, hint: Any) -> bool:
    """Tell whether true or false would silently become the text "True": likelier a mistake, or a name to quote."""
    texts = [value] if str in _members(hint) else value if list_item(hint) is str else []
    return isinstance(texts, (list, tuple)) and bool not in _members(hint) and any(isinstance(x, bool) for x in texts)


def check_type(cls: type) -> str | None:
    """Return why ``cls`` cannot serve as a section (a missing default, a type unknown to OmegaConf), or None."""
    from omegaconf import OmegaConf

    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            return f"{field.name} has no default."
    try:
        get_type_hints(cls)
        build(cls, to_plain(cls()), "")
        OmegaConf.structured(cls)
    except Exception as cause:
        return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    return None


def to_plain(value: Any) -> Any:
    """Return sections, lists and mappings as plain data that YAML and JSON can write."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def section_of(hint: Any) -> type | None:
    """Return the dataclass that a type hint (possibly Optional) names, or None."""
    for member in _members(hint):
        if isinstance(member, type) and dataclasses.is_dataclass(member):
            return member
    return None


def key_names(cls: type, path: str = "") -> Iterator[str]:
    """Yield the dotted names of a section's keys, nested ones included."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = _join(path, field.name)
        yield name
        nested = section_of(hints[field.name]) or section_of(list_item(hints[field.name]))
        if nested is not None:
            yield from key_names(nested, name)


def unknown_key(key: str, keys: list[str]) -> InputError:
    """Return the error for a key that does not exist, naming the nearest that do, with their full names."""
    section, _, last = key.rpartition(".")
    siblings = [name for name in keys if name.rpartition(".")[0] == section]
    elsewhere = sorted((name for name in keys if name.rpartition(".")[2] == last), key=lambda name: name.count("."))
    near = difflib.get_close_matches(key, siblings, n=2, cutoff=0.75) + elsewhere
    near = near or difflib.get_close_matches(key, keys, n=2, cutoff=0.6)
    if near:
        return InputError(
            f"unknown key {key!r}. Did you mean {' or '.join(repr(name) for name in dict.fromkeys(near))}?"
        )
    return InputError(f"unknown key {key!r}. Valid: {', '.join(siblings or [n for n in keys if '.' not in n])}.")


def describe(hint: Any, plural: bool = False) -> str:
    """Return a type hint in words: "a whole number", "a list of numbers or null"."""
    members = [member for member in _members(hint) if member is not type(None)]
    words = []
    for member in members:
        origin = get_origin(member) or member
        if origin in (list, tuple):
            words.append(f"{'lists' if plural else 'a list'} of {describe(list_item(member), plural=True)}")
        elif origin is dict:
            words.append("mappings" if plural else "a mapping of names to values")
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            words.append(f"one of {', '.join(each.name for each in member)}")
        elif isinstance(member, type) and dataclasses.is_dataclass(member):
            words.append("sections" if plural else "a section")
        else:
            words.append(_WORDS.get(member, (str(member), str(member)))[plural])
    if _optional(hint):
        words.append("null")
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _check_range(value: Any, field: dataclasses.Field[Any], path: str) -> None:
    """Refuse what lies outside ``field``'s declared range or choices; lists entry by entry."""
    if isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            _check_range(each, field, f"{path}.{i}")
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}={value} is not a finite number{_range(field, ', ')}.")
    choices = field.metadata.get("choices")
    if choices is not None and value is not None and value not in choices:
        near = difflib.get_close_matches(str(value), [str(each) for each in choices], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{path}={value} is not valid. Valid: {', '.join(str(each) for each in choices)}.{hint}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = field.metadata.get("min"), field.metadata.get("max")
        if (low is not None and value < low) or (high is not None and value > high):
            raise InputError(f"{path}={value} is out of range: expected{_range(field)} ({field.metadata.get('help')}).")


def range_text(field: dataclasses.Field[Any]) -> str:
    """Return a field's declared range or choices in words, or ""."""
    low, high, choices = (field.metadata.get(name) for name in ("min", "max", "choices"))
    if choices is not None:
        return "one of " + ", ".join(str(each) for each in choices)
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else ""


def _range(field: dataclasses.Field[Any], before: str = " ") -> str:
    return f"{before}{text}" if (text := range_text(field)) else ""


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _optional(hint: Any) -> bool:
    return type(None) in _members(hint)


def list_item(hint: Any) -> Any:
    """Return the hint of a list's entries (also of an optional list's), or None where ``hint`` is no list."""
    for member in _members(hint):
        if get_origin(member) in (list, tuple) and get_args(member):
            return get_args(member)[0]
        if member in (list, tuple):
            return Any
    return None


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _given(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    kinds: dict[type, str] = {str: "the text ", list: "the list ", tuple: "the list ", dict: "the mapping "}
    kind = kinds.get(type(value), "")
    text = repr(value)
    return kind + (text if len(text) <= 60 else text[:57] + "...")
