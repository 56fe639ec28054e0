"""``kdtool list-tasks``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import options
from kdtool.system import strict_json


@click.command("list-tasks", short_help="List the installed tasks.")
@options.json
@options.debug
def command(as_json: bool) -> None:
    """List the installed tasks, those of third-party packages included: what --task takes.

    A plugin that cannot be used stays in the list with its error.

    \b
    Examples:
      kdtool list-tasks
      kdtool list-tasks --json | jq -r '.[].name'
    """
    from kdtool.terminal import tasks

    if as_json:
        click.echo(strict_json.dumps(tasks.listing(), indent=2, ensure_ascii=False))
    else:
        tasks.show_list(sys.stdout)
