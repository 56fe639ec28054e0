"""Every line of ``kdtool`` that a Markdown file or a help text shows is one that the real commands parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kdtool.cli import cli, flags
from tests.imports import ROOT

PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("runs", "node_modules") for part in path.relative_to(ROOT).parts)
)


def commands(group: click.Group = cli, name: str = "kdtool") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, those of groups within groups too."""
    context = click.Context(group)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        assert command is not None
        yield f"{name} {each}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {each}")


def shown(text: str) -> Iterator[str]:
    """Yield the lines that call kdtool: in blocks of code, and between single backticks."""
    text = re.sub(r"\\\n\s*", " ", text)
    for found in re.finditer(r"^(?: {4,}|\t|> )?\$? ?(?:[A-Z_]+=\S+ )*(kdtool [a-z-].*)$", text, re.M):
        yield found[1]
    for found in re.finditer(r"`(?:[A-Z_]+=\S+ )*(kdtool [a-z-][^`]*)`", text):
        yield " ".join(found[1].split())


def arguments(line: str) -> list[str]:
    """Return a line's words up to a comment, a pipe, a redirection or the next command."""
    # A # within a word, as in an address, begins no comment.
    lexer = shlex.shlex(re.sub(r"(^|\s)#\s.*", "", line), posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[str] = []
    for word in lexer:
        if word and set(word) <= set("|;&<>"):
            break
        found.append(word.rstrip(",.:") if word.endswith((",", ":")) else word)
    return found[1:]


def parse(words: list[str], group: click.Group = cli) -> None:
    """Parse a line without running it.

    Raises:
        click.ClickException: there is no such command, flag or value.
    """
    parent = click.Context(group, info_name="kdtool")
    _, command, rest = group.resolve_command(parent, list(words))
    assert command is not None
    if not rest or {"--help", "-h"} & set(rest):  # a command's name in a sentence, or its help
        return
    if isinstance(command, click.Group) and rest:
        parse(rest, command)
    elif not isinstance(command, click.Group):
        command.make_context(words[0], rest, parent=parent)


def test_there_are_lines_to_parse() -> None:
    lines = [line for page in PAGES for line in shown(page.read_text(encoding="utf-8"))]
    assert len(lines) > 50
    assert any(line.startswith("kdtool compare --methods") for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_pages(page: Path) -> None:
    check(shown(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda each: each if isinstance(each, str) else "")
def test_lines_of_help(name: str, command: click.Command) -> None:
    lines = list(shown((command.help or "").replace("\b", "")))
    assert lines, f"{name} has no example"
    check(lines)


def check(lines: Iterator[str] | list[str]) -> None:
    wrong = []
    for line in lines:
        if "…" in line or "..." in line:
            continue  # cut short by its author
        try:
            parse(arguments(line))
        except click.ClickException as error:
            wrong.append(f"{line}: {error.format_message()}")
    assert wrong == []


@pytest.mark.parametrize("line", ["kdtool compare --nonesuch 3", "kdtool nonesuch", "kdtool run --epochs many"])
def test_the_check_itself_finds_wrong_lines(line: str) -> None:
    with pytest.raises(click.ClickException):
        parse(arguments(line))


# --- the table of flags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "compare", "bench", "inspect", "cache build"])
def test_a_flag_of_one_key_is_the_same_everywhere(name: str) -> None:
    command = dict(commands())[f"kdtool {name}"]
    own = {option: each for each in command.params for option in each.opts if option.startswith("--")}
    renamed = {"compare": {"--method", "--student", "--generations", "--assistant", "--out"}, "bench": {"--precision"},
               "cache build": {"--teacher-cache"}}.get(name, set())  # fmt: skip
    for flag in flags.TABLE:
        if flag.name in renamed or (flag.kept and name != "run"):
            continue
        assert own[flag.name].help == flag.help
        assert own[flag.name].multiple == flag.multiple


def test_every_flag_sets_a_key_that_there_is() -> None:
    from kdtool.recipe.load import keys
    from kdtool.recipe.schema import recipe_type
    from kdtool.registry import tasks

    known = set(keys(recipe_type(tasks.get(tasks.default()), tasks.default())))
    assert {flag.key for flag in flags.TABLE} <= known
    assert flags.values({"epochs": 3, "teacher": ("a", "b"), "teacher_cache": True, "lr": None, "steps": 9}) == {
        "train.epochs": 3,
        "teacher.model": ["a", "b"],
        "cache.mode": "build",
    }
    assert flags.values({"out": "x", "seed": 1}, but=["--out"]) == {"train.seed": 1}
