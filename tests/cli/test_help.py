"""Help: quick, complete, and with examples that are real commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

import kdtool as package
from kdtool.cli import cli
from kdtool.cli.run import command as run_command
from tests.cli.conftest import Answer

Kdtool = Callable[..., Answer]
COMMANDS = cli.list_commands(None)  # type: ignore[arg-type]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, kdtool.cli\n"
        "try: kdtool.cli.cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'omegaconf', 'rich', 'yaml', 'sklearn', 'kdtool.recipe'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in said


def test_help_names_every_command_and_exit_code(kdtool: Kdtool) -> None:
    answer = kdtool("--help")
    assert answer.code == 0
    assert all(name in answer.out for name in COMMANDS)
    section = answer.out.split("Exit codes:")[1]
    assert re.findall(r"^\s+(\d+)\s", section, re.M) == ["0", "1", "2", "3", "130", "141", "143"]


def _leaves() -> list[str]:
    """Every command that does something, those of a group by both names."""
    groups = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    each = {name: list(group.commands) if isinstance(group, click.Group) else [""] for name, group in groups.items()}
    return [f"{name} {sub}".strip() for name, subs in each.items() for sub in subs]


@pytest.mark.parametrize("name", [*_leaves(), "cache"])
def test_each_command_shows_two_examples(kdtool: Kdtool, name: str) -> None:
    answer = kdtool(*name.split(), "--help")
    assert answer.code == 0
    assert len(re.findall(rf"^.*kdtool {name}\b.*$", answer.out.split("Examples:")[1], re.M)) == 2
    if name in _leaves():
        assert "--debug" in answer.out
        assert "--json" in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_the_one_in_the_list(kdtool: Kdtool, name: str) -> None:
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.short_help
    assert command.short_help in kdtool("--help").out


def test_examples_of_run_parse() -> None:
    for line in re.findall(r"^\s+kdtool run (.*)$", run_command.help or "", re.M):
        run_command.make_context("run", shlex.split(line))


def test_version(kdtool: Kdtool) -> None:
    assert kdtool("--version").out == f"kdtool {package.__version__}\n"


def test_unknown_command_and_flag_are_bad_input(kdtool: Kdtool) -> None:
    answer = kdtool("rnu")
    assert answer.code == 2
    assert "Did you mean 'run' or 'runs'?" in answer.err
    answer = kdtool("run", "--epoch", "3")
    assert answer.code == 2
    assert "--epochs" in answer.err
    answer = kdtool("run", "--epochs", "many")
    assert answer.code == 2
    assert "'many'" in answer.err


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m kdtool list-methods --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "["
    assert "Traceback" not in done.stderr
