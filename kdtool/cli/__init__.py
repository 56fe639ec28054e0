"""The ``kdtool`` command: a thin skin over the Python API, one file a command, each imported when it is called."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

from kdtool import __version__
from kdtool.errors import KdtoolError, did_you_mean, from_os
from kdtool.system import closed, parallel
from kdtool.system.children import die_with_parent

_COMMANDS = {
    "run": ("kdtool.cli.run", "Distil a student from a teacher."),
    "compare": ("kdtool.cli.compare", "Compare methods over students and seeds, paired."),
    "eval": ("kdtool.cli.eval", "Measure a run, a model or an exported file on data."),
    "predict": ("kdtool.cli.predict", "Tell the classes of new inputs, or complete prompts."),
    "generate": ("kdtool.cli.generate", "Ask a teacher, and keep its answers as data to train on."),
    "profile": ("kdtool.cli.profile", "Measure size, memory and speed of networks on this machine."),
    "report": ("kdtool.cli.report", "Write one page on runs or a comparison, that opens offline."),
    "runs": ("kdtool.cli.runs", "List runs with their state and result."),
    "recipes": ("kdtool.cli.recipes", "List and copy the recipes that kdtool ships."),
    "export": ("kdtool.cli.export", "Write a student in formats that run without kdtool."),
    "inspect": ("kdtool.cli.inspect", "Show two networks side by side and what a method would pair."),
    "list-methods": ("kdtool.cli.list_methods", "List the installed distillation methods."),
    "list-tasks": ("kdtool.cli.list_tasks", "List the installed tasks."),
    "show": ("kdtool.cli.show", "Show a method's paper, equation and options."),
    "check": ("kdtool.cli.check", "Check that an installed method keeps the contract."),
    "cache": ("kdtool.cli.cache", "Keep teachers' outputs for later runs."),
    "bench": ("kdtool.cli.bench", "Measure what a step, or reading, costs on this machine."),
    "doctor": ("kdtool.cli.doctor", "Look for what would keep kdtool from working here."),
    "new-method": ("kdtool.cli.new_method", "Write the package of a new method."),
    "completion": ("kdtool.cli.completion", "Print the script that completes kdtool's words in your shell."),
}

_EPILOG = """\b
Exit codes:
  0    success
  1    a bug in kdtool or in a plugin
  2    bad input: the message says what is valid
  3    a run that could not go on, such as a loss that is not finite
  130  stopped by Ctrl-C, with a checkpoint written while training
  141  nobody reads the output any more, as after `| head`
  143  stopped by SIGTERM, likewise
"""


class _Commands(click.Group):
    """Imports a command when it is called, and turns errors into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}. {did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)
        with _until_output_closes():
            ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta["kdtool.arguments"] = given  # what --nproc starts again
        return ctx

    def invoke(self, ctx: click.Context) -> object:
        with _until_output_closes():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)
        except (KdtoolError, OSError) as cause:
            if closed.is_why(cause):
                raise
            error = cause if isinstance(cause, KdtoolError) else from_os(cause)
            self._show_traceback_if_wanted(ctx)
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except Exception as error:
            if parallel.launched():
                time.sleep(parallel.SECONDARY_S)
            self._show_traceback_if_wanted(ctx)
            text = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(f"internal error: {text} (run with --debug for the traceback)", err=True)
            ctx.exit(1)

    @staticmethod
    def _show_traceback_if_wanted(ctx: click.Context) -> None:
        if ctx.meta.get("kdtool.debug"):
            import traceback

            click.echo(traceback.format_exc(), err=True)


@contextlib.contextmanager
def _until_output_closes() -> Iterator[None]:
    """End as other tools do where nobody reads the output any more; click alone ends with the exit code of a bug."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        if not closed.is_why(error):
            raise
        closed.silence()
        raise click.exceptions.Exit(closed.EXIT_CODE) from error


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdtool", message="%(prog)s %(version)s")
def cli() -> None:
    """Knowledge distillation: train a small network from a large one.

    \b
    Examples:
      kdtool run --teacher resnet50 --student mobilenetv3
      kdtool list-methods
    """


def main() -> None:
    """Run the command line; what ``kdtool`` and ``python -m kdtool`` call."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of classes and files must not fail on an ASCII terminal
            stream.reconfigure(errors="backslashreplace")
    die_with_parent()
    cli(prog_name="kdtool")
