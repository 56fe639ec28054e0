"""The recipes that ship with kdtool: what there is, and copies to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, did_you_mean
from kdtool.recipe import yaml_file as recipe_file
from kdtool.system.disk import write_whole


def shipped_recipes() -> list[dict[str, Any]]:
    """Return the shipped recipes: "name", "command" (None for a base of others) and "about", its first sentence."""
    return [{"name": name, **_head(recipe_file.find(name).read_text("utf-8"))} for name in recipe_file.shipped_names()]


def copy_recipe(name: str, to: str | Path | None = None) -> list[Path]:
    """Copy a shipped recipe, and those that it builds on, to where it can be changed.

    Args:
        name: as ``shipped_recipes`` has it; ".yaml" may be left out.
        to: a file, or a folder; default: the current folder. Bases lie beside the copy, under their own names.

    Returns:
        The files that were written, the recipe first.

    Raises:
        InputError: there is no such recipe, or a file would be overwritten.
    """
    names = recipe_file.shipped_names()
    known = next((each for each in (name, f"{name}.yaml", name.removeprefix("recipes/")) if each in names), None)
    if known is None:
        raise InputError(f"kdtool ships no recipe {name!r}. {did_you_mean(name, names)} `kdtool recipes` lists them.")
    goal = Path(to or ".")
    if goal.is_dir():
        goal /= Path(known).name
    elif goal.suffix not in (".yaml", ".yml"):
        raise InputError(f"{goal}: name a folder that exists, or a file that ends in .yaml.")
    source = recipe_file.find(known)
    text = re.sub(rf"\bkdtool run {re.escape(known)}", lambda _: f"kdtool run {goal}", source.read_text("utf-8"))
    files = {goal: text}
    while (base := re.search(r"^base:\s*(\S+)", source.read_text("utf-8"), re.M)) is not None:
        beside = source.parent / base[1]
        source = beside if beside.is_file() else recipe_file.find(base[1])
        files[goal.parent / base[1]] = source.read_text("utf-8")
    if taken := [str(path) for path in files if path.exists()]:
        raise InputError(f"{', '.join(taken)} exists already: name another place, or remove it.")
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return list(files)


def _head(text: str) -> dict[str, str | None]:
    """Return the command and the first sentence of a recipe's opening comment."""
    comment = re.match(r"(?:#.*\n)*", text)
    lines = [line.lstrip("#").strip() for line in (comment[0] if comment else "").splitlines()]
    command = lines.pop(0) if lines and lines[0].startswith("kdtool run ") else None
    sentence = re.match(r"(.+?\.)(?:\s|$)", " ".join(lines).strip())
    return {"command": command, "about": sentence[1] if sentence else ""}
