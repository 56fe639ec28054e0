"""``kdtool show``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import complete, options
from kdtool.system import strict_json


@click.command("show", short_help="Show a method's paper, equation and options.")
@click.argument("method", shell_complete=complete.methods)
@options.json
@options.debug
def command(method: str, as_json: bool) -> None:
    """Show a method: paper, equation, what it taps, and every option with its default.

    \b
    Examples:
      kdtool show METHOD
      kdtool show METHOD --json | jq .options
    """
    from kdtool.terminal import methods

    if as_json:
        click.echo(strict_json.dumps(methods.details(method), indent=2, ensure_ascii=False))
    else:
        methods.show_method(method, sys.stdout)
