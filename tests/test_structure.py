"""The layout that the code keeps: no import circle, no large file, and which part may import which."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.imports import ROOT, imports, is_in, sources

TREE = sources()

MOST_LINES = 400
MOST_IN_THE_ROOT = 8

ROOMS = sorted(path.parent.name for path in ROOT.glob("kdtool/tasks/*/__init__.py") if path.parent.name != "common")


def test_there_is_something_to_look_at() -> None:
    assert {"kdtool", "kdtool.engine.step", "kdtool_methods.kd"} <= set(TREE)
    assert "images" in ROOMS


# --- circles ------------------------------------------------------------------------------------------------------


def circle(tree: Mapping[str, str]) -> list[str] | None:
    """Return modules that import one another in a round, whenever they do; None without any."""
    graph = {name: {each.module for each in imports(name, tree) if each.module in tree} for name in tree}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_modules_import_one_another() -> None:
    assert circle(TREE) is None


@pytest.mark.parametrize(
    "back",
    [
        "import a.x",
        "from a import x",
        "from a.x import name",
        "from . import x",
        "from .x import name",
        "def call():\n    from a.x import name",
        "x = import_module('a.x')",
    ],
)
def test_the_check_itself_finds_a_circle(back: str) -> None:
    assert circle({"a": "", "a.x": "from a import y", "a.y": back}) is not None


@pytest.mark.parametrize("back", ["", "import a", "if TYPE_CHECKING:\n    from a.x import name", "from a import name"])
def test_the_check_itself_leaves_the_rest(back: str) -> None:
    assert circle({"a": "", "a.x": "from a import y", "a.y": back}) is None


# --- names --------------------------------------------------------------------------------------------------------

OURS = ("kdtool", "kdtool_methods", "kdtool_models", "tests")


def dangling(source: str) -> Iterator[str]:
    """Yield what a text imports of ours that is not there; programs that it holds as strings are read as well."""
    tree = ast.parse(source)
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    programs = [text for text in strings if re.search(r"^\s*(from|import) kdtool", text, re.MULTILINE)]
    for each in [tree, *map(parsed, programs)]:
        for node in ast.walk(each):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] in OURS:
                module = str(node.module)
                yield from (f"{module}.{alias.name}" for alias in node.names if not there(module, alias.name))
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.partition(".")[0] in OURS]
                yield from (name for name in names if not there(name))


def parsed(program: str) -> ast.AST:
    """Return a program's tree; an empty one of what is no Python."""
    try:
        return ast.parse(textwrap.dedent(program))
    except SyntaxError:
        return ast.parse("")


def there(module: str, name: str | None = None) -> bool:
    """Tell whether a module, and a name in it, can be imported."""
    try:
        found = importlib.import_module(module)
        if name is not None and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_what_is_not_shipped_imports_what_is_there(folder: str) -> None:
    # The type checker reads kdtool and plugins alone, and nobody runs every benchmark.
    paths = [path for path in (ROOT / folder).rglob("*.py") if path.name != "test_structure.py"]
    found = {str(path.relative_to(ROOT)): list(dangling(path.read_text(encoding="utf-8"))) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from kdtool.models import build",
        "import kdtool.models.build",
        "def call():\n    from kdtool.errors import nothing",
        "PROGRAM = '''\nfrom kdtool.models.build import build\n'''",
    ],
)
def test_the_check_itself_finds_what_is_gone(source: str) -> None:
    assert list(dangling(source))
    assert not list(dangling("from kdtool.errors import InputError\nfrom kdtool.recipe import load\nimport kdtool.cli"))


# --- sizes --------------------------------------------------------------------------------------------------------


def test_no_file_is_large() -> None:
    files = [path for folder in ("kdtool", "plugins", "tests") for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_the_package_root_holds_little() -> None:
    assert len(list((ROOT / "kdtool").glob("*.py"))) <= MOST_IN_THE_ROOT


# --- rooms --------------------------------------------------------------------------------------------------------


def intrusions(name: str, tree: Mapping[str, str], rooms: list[str]) -> Iterator[str]:
    """Yield what in a module imports, or names in a text, a task's room that the module is not in."""
    for room in (f"kdtool.tasks.{each}" for each in rooms):
        if is_in(name, room):
            continue
        for each in imports(name, tree):
            if is_in(each.module, room):
                yield f"line {each.line}: imports {each.module}"
        for node in ast.walk(ast.parse(tree[name])):
            if isinstance(node, ast.Constant) and re.search(rf"\b{re.escape(room)}\b", str(node.value)):
                yield f"line {node.lineno}: names {room} in {str(node.value)[:60]!r}"


def test_tasks_are_loaded_by_the_registry_only() -> None:
    found = {name: list(intrusions(name, TREE, ROOMS)) for name in TREE}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import kdtool.tasks.images",
        "from kdtool.tasks.images.data.open import open_data",
        "from kdtool.tasks import images",
        "def call():\n    from kdtool.tasks.images import networks",
        "x = import_module('kdtool.tasks.images.export')",
        "TABLE = {'export': 'kdtool.tasks.images.export.export:export'}",
    ],
)
@pytest.mark.parametrize("name", ["kdtool.runs.api", "kdtool.tasks.common.splits", "kdtool.tasks.text"])
def test_the_check_itself_finds_intrusions(name: str, source: str) -> None:
    tree = {"kdtool.tasks.images": "", name: source}
    assert list(intrusions(name, tree, ["images"]))
    assert not list(intrusions(name, {**tree, name: "from kdtool.tasks import task"}, ["images"]))
    assert not list(intrusions("kdtool.tasks.images.a", {**tree, "kdtool.tasks.images.a": source}, ["images"]))


# --- layers -------------------------------------------------------------------------------------------------------


def taken(part: str, refused: tuple[str, ...], tree: Mapping[str, str], later: bool = True) -> list[str]:
    """Return what modules of a part import of what is refused to it; ``later``: inside functions too."""
    return [
        f"{name}, line {each.line}: {each.module}"
        for name in tree
        if is_in(name, part)
        for each in imports(name, tree)
        if (later or not each.deferred) and any(is_in(each.module, package) for package in refused)
    ]


def within(*parts: str) -> tuple[str, ...]:
    return tuple(f"kdtool.{part}" for part in parts)


def test_the_system_knows_nothing_of_distillation() -> None:
    others = {name for name in TREE if name != "kdtool" and not is_in(name, "kdtool.system")} - {"kdtool.errors"}
    assert taken("kdtool.system", ("torch", *sorted(others)), TREE) == []


def test_recipes_are_read_without_what_runs_them() -> None:
    assert taken("kdtool.recipe", ("torch", *within("engine", "runs", "tasks")), TREE) == []


def test_the_engine_knows_neither_tasks_nor_who_looks_on() -> None:
    assert taken("kdtool.engine", within("runs", "tasks", "cli", "terminal", "report"), TREE) == []


def test_the_terminal_shows_plain_data() -> None:
    assert taken("kdtool.terminal", ("torch", *within("engine", "runs")), TREE, later=False) == []


def opened(name: str, tree: Mapping[str, str]) -> set[str]:
    """Return all that is imported, by whatever way, as soon as a module is; packages above included."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            if module in tree:
                ahead += [each.module for each in imports(module, tree) if not each.deferred]
            ahead += [module.rpartition(".")[0]] if "." in module else []
    return found


@pytest.mark.parametrize("part", ["kdtool.system", "kdtool.recipe", "kdtool.registry", "kdtool.terminal", "kdtool.cli"])
def test_what_comes_first_opens_without_torch(part: str) -> None:
    slow = {"torch", "timm", "sklearn"}
    found = {name: slow & opened(name, TREE) for name in TREE if is_in(name, part)}
    assert {name: packages for name, packages in found.items() if packages} == {}


def test_the_check_itself_finds_what_is_refused() -> None:
    tree = {"a.x": "import torch.nn", "a.y": "def call():\n    import torch", "b": "import torch"}
    assert taken("a", ("torch",), tree) == ["a.x, line 1: torch.nn", "a.y, line 2: torch"]
    assert taken("a", ("torch",), tree, later=False) == ["a.x, line 1: torch.nn"]
    through = {"p": "", "p.a": "from p import b", "p.b": "import torch.nn", "p.c": "def call():\n    import torch"}
    assert "torch" in opened("p.a", through)
    assert "torch" not in opened("p.c", through)
