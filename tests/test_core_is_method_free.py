"""Nothing under kdtool/ imports or names a built-in method: they are plugins like any other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import kdtool
from kdtool.method import Out
from kdtool.tasks.images.models.names import USUAL_MEMBER

ROOT = Path(kdtool.__file__).parent
BUILT_IN = [point for point in entry_points(group="kdtool.methods") if point.dist and point.dist.name == "kdtool"]
OUTPUTS = {field.name for field in fields(Out)}
"""What the contract calls a network's outputs: a method may be named after one, the core speaks of the output."""

NAMES = {point.name for point in BUILT_IN} - OUTPUTS - set(USUAL_MEMBER)
"""But for families of networks: a method may have the name of the network that it was made for."""

PACKAGES = {point.value.split(":")[0].split(".")[0] for point in BUILT_IN}


def offences(source: str) -> Iterator[str]:
    """Yield what in a module's source imports a plugin or names a method."""
    packages = re.compile(rf"\b({'|'.join(PACKAGES)})\b")
    tree = ast.parse(source)
    modes = {id(arg) for call in ast.walk(tree) if isinstance(call, ast.Call) and _opens(call) for arg in call.args}
    for node in ast.walk(tree):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value in NAMES and id(node) not in modes:
                yield f"line {node.lineno}: names the method {node.value!r}"
            if packages.search(node.value):
                yield f"line {node.lineno}: names a plugins' package in {node.value[:60]!r}"
        for module in imported:
            if module.split(".")[0] in PACKAGES:
                yield f"line {node.lineno}: imports {module}"


def _opens(call: ast.Call) -> bool:
    """Tell whether a call opens a file: its mode may read like a method's name."""
    return (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) == "open"


def test_there_is_something_to_look_for() -> None:
    assert {"kd", "fitnets"} <= NAMES
    assert list(PACKAGES) == ["kdtool_methods"]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_core_names_no_method(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import kdtool_methods.kd",
        "from kdtool_methods import kd",
        "x = import_module('kdtool_methods.kd')",
        "if method == 'fitnets': pass",
    ],
)
def test_the_check_itself_finds_offences(source: str) -> None:
    assert list(offences(source))
