"""Recipes as YAML text: found, read safely, and written so that they read back the same.

Scalars follow YAML 1.2's core schema: ``off``, ``no`` and ``12:30`` are text, ``1e-3`` is a number and ``007`` is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kdtool.errors import InputError, did_you_mean

BASE = "base"
"""Key of a recipe file that names another one, whose values hold where the first says nothing."""

MAX_BYTES = 1_000_000
_MAX_VALUES = 20_000
_MAX_DEPTH = 30
_MAX_BASES = 5


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without YAML 1.1's surprises and without keys given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Loader`` would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Other styles lose some line breaks and control characters; double quotes escape them all.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in (
        ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
        ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), _first)


def find(name: str | Path) -> Path:
    """Return the recipe's path: as given, or within the recipes that kdtool ships.

    Raises:
        InputError: there is no such file.
    """
    path = Path(name)
    if path.is_file() or path.is_char_device() or path.is_fifo():
        return path
    if path.is_dir():
        raise InputError(f"{path} is a folder; a recipe is a YAML file.")
    folder = shipped_folder()
    parts = path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts
    if folder is not None and not path.is_absolute() and ".." not in parts:
        inside = folder.joinpath(*parts)
        for candidate in (inside, inside.with_name(inside.name + ".yaml") if inside.name else inside):
            if candidate.is_file():
                return candidate
    raise InputError(f"there is no recipe {str(name)!r}. {did_you_mean(str(name), shipped_names())}".strip())


def shipped_folder() -> Path | None:
    """Return the folder of shipped recipes: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    return None


def shipped_names() -> list[str]:
    """Return the shipped recipes' names relative to their folder, sorted."""
    folder = shipped_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")) if folder else []


def read(path: Path) -> dict[str, Any]:
    """Return a recipe file's content as plain data, on top of that of the file that its key ``base`` names.

    A base is looked for beside the file, then among the shipped recipes. Sections are merged key by key.

    Raises:
        InputError: unreadable, larger than ``MAX_BYTES``, no YAML, no mapping of keys to values, or too many bases.
    """
    layers = [_read_one(path)]
    while (name := layers[-1].pop(BASE, None)) is not None:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: {BASE}: expected the name of a recipe file, got {name!r}.")
        if len(layers) > _MAX_BASES:
            raise InputError(f"{path}: {BASE}: {name} would be number {len(layers)} in a row; are they in a circle?")
        beside = path.parent / name
        path = beside if beside.is_file() else find(name)
        layers.append(_read_one(path))
    whole: dict[str, Any] = {}
    for layer in reversed(layers):
        whole = _merged(whole, layer)
    return whole


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return both, key by key; ``own`` wins."""
    both = dict(base)
    for key, value in own.items():
        before = base.get(key)
        if key in ("teacher", "student") and isinstance(value, str):
            value = {"model": value}  # a model's name stands for its section
        both[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both


def _read_one(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as cause:
        raise InputError(f"cannot read the recipe {path}: {cause.strerror}.") from cause
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES} bytes; that is no recipe.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise InputError(f"{path} is no text in UTF-8; a recipe is a YAML file.") from cause
    data = parse(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no recipe: expected lines such as `method: NAME`, got {type(data).__name__}.")
    return data


def parse(text: str, source: str) -> Any:
    """Return YAML text as plain data: dicts with text keys, lists, numbers, texts, true, false, null.

    Args:
        text: the YAML.
        source: its name in messages.

    Raises:
        InputError: no YAML, or something in it that recipes do not take (see ``refuse_unsafe``).
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(cause, "problem", None) or str(cause).splitlines()[0]
        raise InputError(f"{source}{where}: not valid YAML: {problem}.") from cause
    except RecursionError as cause:
        raise InputError(f"{source}: nested too deeply for a recipe.") from cause
    except ValueError as cause:  # a number of thousands of digits
        raise InputError(f"{source}: {cause}.") from cause
    refuse_unsafe(data, source)
    return data


def refuse_unsafe(data: Any, source: str) -> None:
    """Refuse what plain data may hold but a recipe must not: interpolation, repeated aliases that explode, odd keys.

    Raises:
        InputError: naming what was found.
    """
    stack: list[tuple[Any, int]] = [(data, 0)]
    seen = 0
    while stack:
        value, depth = stack.pop()
        seen += 1
        if seen > _MAX_VALUES or depth > _MAX_DEPTH:
            raise InputError(f"{source}: too large or too deeply nested for a recipe (aliases count at every use).")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise InputError(f"{source}: the key {key!r} is no text; put it in quotes.")
            stack += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, (list, tuple)):
            stack += [(each, depth + 1) for each in value]
        elif isinstance(value, str):
            _refuse_text(value, source)


def _refuse_text(text: str, source: str) -> None:
    if "${" in text or text == "???":
        raise InputError(f"{source}: {text!r} asks for a value from elsewhere; recipes hold plain values only.")
    if any("\ud800" <= char <= "\udfff" for char in text):  # a file name in another encoding than UTF-8
        raise InputError(f"{source}: {text!r} is no text in UTF-8, and a recipe could not hold it; rename it.")


def dump(data: dict[str, Any], header: str = "") -> str:
    """Return plain data as YAML text that ``parse`` reads back equal; ``header`` becomes a comment on top."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
