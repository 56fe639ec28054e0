"""Methods made up for recipes to name, and recipes that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe

PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any, Optional, Union
from kdtool import Method, option
@dataclass
class Branch:
    depth: int = option(1, "how deep", min=1, max=4)
    name: str = option("x", "which")
class Free(Method):
    api = 1
    teachers = (1, None)
    @dataclass
    class Config:
        weight: float = option(1.0, "a weight", min=0.0, max=2.0)
        mode: str = option("sum", "how", choices=("sum", "mean"))
        layer: Union[int, float, str] = option(0.5, "where")
        layers: list[Any] = option([0, 0.5], "where, several")
        branches: list[Branch] = option([], "side branches")
        inner: Branch = option(Branch, "one branch")
        maybe: Optional[int] = option(None, "perhaps", min=3)
class Self(Method):
    api = 1
    teachers = (0, 0)
class Pair(Method):
    api = 1
    teachers = (2, 2)
class One(Method):
    api = 1
class Online(Method):
    api = 1
    online = True
class Hard(Method):
    api = 1
    hard_labels = True
class Whole(Method):
    api = 1
    batch = "global"
"""
NAMES = ("free", "self", "pair", "one", "online", "hard", "whole")
METHODS = {f"m_{name}": f"recipe_plugin:{name.capitalize()}" for name in NAMES}
"""What the plugin's distribution announces: its methods by name."""


def load(*overrides: str, path: Path | None = None, **flags: Any) -> Recipe:
    """Return the recipe of a file, flags (``__`` for a dot) and overrides."""
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return recipes.load(path, overrides, named)


def written(tmp_path: Path, text: str) -> Path:
    """Write a recipe and return its file."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path
