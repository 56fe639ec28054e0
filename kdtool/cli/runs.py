"""``kdtool runs``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import options
from kdtool.system import strict_json


@click.command("runs", short_help="List runs with their state and result.")
@click.argument("folder", default="runs", type=options.PathName())
@options.json
@options.debug
def command(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs), newest first: running, stopped, failed or finished, and what came out.

    A comparison is one line, with what its best method came to; where FOLDER is its own, its runs are listed.

    \b
    Examples:
      kdtool runs
      kdtool runs studies/ --json | jq -r '.[] | select(.state == "stopped") | .resume'
    """
    from kdtool.runs.listing import list_runs

    found = list_runs(folder)
    if as_json:
        click.echo(strict_json.dumps(found, indent=2, ensure_ascii=False))
        return
    from kdtool.terminal.runs import show

    show(found, sys.stdout)
