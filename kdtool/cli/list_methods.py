"""``kdtool list-methods``."""

from __future__ import annotations

import json
import sys

import click

from kdtool.cli import options


@click.command("list-methods", short_help="List the installed distillation methods.")
@options.json
@options.debug
def command(as_json: bool) -> None:
    """List the installed distillation methods, those of third-party packages included.

    A plugin that cannot be used stays in the list with its error.

    \b
    Examples:
      kdtool list-methods
      kdtool list-methods --json | jq -r '.[].name'
    """
    from kdtool.terminal import methods

    if as_json:
        click.echo(json.dumps(methods.listing(), indent=2, ensure_ascii=False))
    else:
        methods.show_list(sys.stdout)
