"""Flags that several commands share."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["kdtool.debug"] = value


def debug(function: F) -> F:
    """Add ``--debug``, which the group reads where it shows errors."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_remember,
        help="Show the traceback of an error.",
    )(function)


def json(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document; all else goes to stderr.")(
        function
    )


def task(function: F) -> F:
    """Add ``--task``, for commands that tell it by their TARGET where they can."""
    return click.option(
        "--task", metavar="NAME", shell_complete=_tasks, help="What TARGET is of.  [default: as its run or folder says]"
    )(function)


def _tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    from kdtool.cli import complete

    return list(complete.tasks(ctx, param, incomplete))


class PathName(click.Path):
    """A path that a shell completes; what has to be there is for the command to say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in str(value):  # no system call takes it
            self.fail("a path has no null character.", param, ctx)
        return super().convert(value, param, ctx)


def finite(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse nan and infinities, which lie within any range as click compares."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", param=parameter)
    return value


def sort_arguments(arguments: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Tell recipe files from overrides: a key holds no slash, so a path with = in a folder's name stays a path."""
    overrides = [text for text in arguments if "=" in text and not set("/\\") & set(text.split("=", 1)[0])]
    return [text for text in arguments if text not in overrides], overrides


def guarded_stdout(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json, keep standard output for the document: what plugins or libraries print goes to standard error."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
