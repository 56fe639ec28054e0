"""Who imports whom: the modules of kdtool and its plugins, read as trees, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Import:
    """One import.

    Attributes:
        module: what is imported; a submodule, where the name after ``from x import`` is one.
        line: where.
        deferred: inside a function, so that it happens when that is called.
    """

    module: str
    line: int
    deferred: bool


def sources() -> dict[str, str]:
    """Return the source of each module of kdtool/ and plugins/, by its name."""
    found = {}
    for base, pattern in ((ROOT, "kdtool/**/*.py"), (ROOT / "plugins", "**/*.py")):
        for path in sorted(base.glob(pattern)):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, tree: Mapping[str, str]) -> list[Import]:
    """Return what a module imports; not what it does for the type checker only.

    Args:
        name: of the module.
        tree: sources by name, to tell a submodule from another name.
    """
    package = name if any(other.startswith(f"{name}.") for other in tree) else name.rpartition(".")[0]
    return list(_walk(ast.parse(tree[name]), package, tree, deferred=False))


def _walk(node: ast.AST, package: str, tree: Mapping[str, str], deferred: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, deferred) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            yield Import(inner if inner in tree else module, node.lineno, deferred)
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        for argument in node.args[:1]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield Import(argument.value, node.lineno, deferred)
    inside = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in _children(node):
        yield from _walk(child, package, tree, inside)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        yield from node.orelse
    else:
        yield from ast.iter_child_nodes(node)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_in(module: str, package: str) -> bool:
    """Tell whether a module is a package, or in it."""
    return module == package or module.startswith(f"{package}.")
