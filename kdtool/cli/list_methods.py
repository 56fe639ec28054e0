"""``kdtool list-methods``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import complete, options
from kdtool.system import strict_json


@click.command("list-methods", short_help="List the installed distillation methods.")
@click.option(
    "--for",
    "pair",
    nargs=2,
    metavar="TEACHER STUDENT",
    shell_complete=complete.models,
    help="Say which of them can run on this pair, and why others cannot.",
)
@click.option("--task", metavar="NAME", shell_complete=complete.tasks, help="On whose networks, for --for.")
@options.json
@options.debug
def command(pair: tuple[str, str] | None, task: str | None, as_json: bool) -> None:
    """List the installed distillation methods, those of third-party packages included.

    They are grouped by what they transfer. A plugin that cannot be used stays in the list with its error. With --for
    each method is built on a pair of networks, with first weights, on the data that the task has by default.

    \b
    Examples:
      kdtool list-methods --for resnet50 mobilenetv3
      kdtool list-methods --json | jq -r '.[].name'
    """
    from kdtool.terminal import methods

    if pair is None:
        if task is not None:
            raise click.UsageError("--task goes with --for TEACHER STUDENT.")
        if as_json:
            click.echo(strict_json.dumps(methods.listing(), indent=2, ensure_ascii=False))
        else:
            methods.show_list(sys.stdout)
        return
    from kdtool.runs.suitable import suitable

    with options.guarded_stdout(as_json):
        found = list(suitable(*pair, task))
    if as_json:
        click.echo(strict_json.dumps(found, indent=2, ensure_ascii=False))
    else:
        methods.show_suitable(found, sys.stdout)
