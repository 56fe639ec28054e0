"""Hundreds of generated bad command lines and recipes: exit 2, one message, no traceback, nothing written.

The commands are those of the registry, so that a new one is tried by existing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kdtool.cli import cli
from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import RESERVED, Recipe
from kdtool.recipe.sections import key_names, to_plain
from tests.running import call
from tests.sampling import sampled

NASTY = [
    "",
    " ",
    "\0",
    "no/such/place",
    "x" * 5000,
    "\udce9",
    "-1",
    "1e999",
    "nan",
    "${oc.env:HOME}",
    "!!python/x",
    "[",
    "😀",
]
"""What no flag or argument takes: nothing, control characters, long names, numbers out of range, code."""


def commands(group: Any = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that call it, those of groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def lines() -> Iterator[list[str]]:
    """Yield command lines that are wrong for their commands' own declarations."""
    for path, command in commands():
        yield [*path, "--no-such-flag"]
        yield [*path, "--debug=3"]
        options = [each for each in command.params if isinstance(each, click.Option) and not each.is_flag]
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        for option in options:
            flag = option.opts[-1]
            yield [*path, flag]
            if not isinstance(option.type, (click.types.StringParamType, click.Path)):
                yield from ([*path, flag, text] for text in ("", "x", "nan ", "1.5.2"))
        if arguments and arguments[0].required:
            yield [*path]
        if all(argument.nargs == 1 for argument in arguments):
            yield [*path, *["x"] * (len(arguments) + 1)]


def assert_refused(here: Path, arguments: list[str]) -> None:
    done = call(*arguments)
    shown = [text[:60] for text in arguments]
    assert done.code == 2, (shown, done.code, done.err[-500:])
    said = [line for line in done.err.splitlines() if line.lower().startswith("error:")]
    assert len(said) == 1, (shown, done.err[-500:])
    assert "Traceback" not in done.out + done.err
    assert list(here.iterdir()) == [], shown


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KDTOOL_HOME", str(tmp_path / "home"))
    return folder


def test_every_command_refuses_what_it_does_not_declare(here: Path) -> None:
    tried = list(lines())
    for arguments in tried:
        assert_refused(here, arguments)
    assert len(tried) > 100


@pytest.mark.parametrize("first", [("run",), ("run", "--resume"), ("bench",), ("cache", "build")], ids=" ".join)
def test_names_that_are_nothing(here: Path, first: tuple[str, ...]) -> None:
    for text in NASTY:
        # A number is a name like any other; what is empty or no text of this system is refused by itself.
        assert_refused(here, [*first, text])


FLAGS = ["method", "teacher", "student", "data", "teacher-weights", "device", "precision"]


@pytest.mark.parametrize("flag", sampled(FLAGS, "method", "student", "teacher-weights"))
def test_flags_of_run_with_nonsense(here: Path, flag: str) -> None:
    rest = [] if flag in ("method", "teacher", "student") else ["--teacher", "test_resnet", "--student", "test_resnet"]
    for text in NASTY:
        assert_refused(here, ["run", f"--{flag}={text}", *rest, "--epochs", "1"])


WRONG: dict[type, list[Any]] = {
    int: [None, "x", 1.5, [1], {"a": 1}, -(10**30), True],
    float: ["x", [1], {"a": 1}, float("nan"), float("inf"), -1e30],
    bool: [None, "perhaps", 2, [True]],
    str: [None, [1, 2], {"a": 1}],
    list: [3, {"a": 1}, "x"],
    dict: [3, "x", [1]],
}


def recipes_gone_wrong() -> Iterator[dict[str, Any]]:
    """Yield recipes with one value of a wrong type, or one key that is none."""
    whole: dict[str, Any] = to_plain(recipes.load())
    del whole["options"]
    whole["teacher"] = whole["teacher"][0]
    for key in key_names(Recipe):
        path = key.split(".")
        if path[0] == "options":
            continue
        value: Any = whole
        for name in path:
            value = value[name] if isinstance(value, dict) and name in value else None
        for wrong in WRONG.get(type(value), []):
            yield nested(path, wrong)
        yield nested([*path[:-1], path[-1] + "x"], value)
    yield from ({name: {}} for name in RESERVED)


def refusal(path: Path | None, *overrides: str) -> str | None:
    """Return what is said of a recipe, or None where it is taken; any other error is the test's."""
    try:
        recipes.load(path, overrides)
    except InputError as error:
        return str(error)
    return None


def nested(path: list[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    found: dict[str, Any] = value
    return found


@pytest.mark.parametrize("every", sampled([1, 7, 13], 13))
def test_recipes_with_one_thing_wrong_are_refused_in_one_sentence(tmp_path: Path, every: int) -> None:
    path, refused, passed = tmp_path / "recipe.yaml", 0, []
    for recipe in islice(recipes_gone_wrong(), 0, None, every):
        path.write_text(yaml.safe_dump(recipe))
        said = refusal(path)
        if said is None:
            passed.append(recipe)
        else:
            refused += 1
            assert 0 < len(said) < 600
    assert refused >= 300 // every
    # What is taken is a reading that makes sense: null for a section, or a number in the place of one.
    assert len(passed) < refused / 10, passed


def test_bytes_at_random_are_no_recipe_and_no_traceback(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "recipe.yaml"
    words = [
        "train:",
        "{",
        "}",
        "[",
        "]",
        "- ",
        "&a ",
        "*a",
        "!!",
        "|",
        ">",
        "\n",
        "  ",
        "epochs",
        ": ",
        "1",
        "'",
        '"',
        "\t",
    ]
    for _ in range(300):
        text = "".join(draw.choice(words) for _ in range(draw.randrange(1, 30)))
        path.write_text(text)
        assert refusal(path) != ""
    for _ in range(100):
        path.write_bytes(draw.randbytes(draw.randrange(1, 200)))
        with pytest.raises(InputError):
            recipes.load(path)


@pytest.mark.slow
def test_overrides_at_random() -> None:
    keys = [key for key in key_names(Recipe) if key != "options"]
    values = ["", "[", "{a: ", "!!x y", "*a", "&a [*a]", "${x}", "???", "\udce9", "=", "9" * 5000]
    for key, value in itertools.product(keys[::3], values):
        assert refusal(None, f"{key}={value}") != ""
