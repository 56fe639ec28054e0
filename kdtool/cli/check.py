"""``kdtool check``."""

from __future__ import annotations

import contextlib
import sys

import click

from kdtool.cli import complete, options
from kdtool.system import strict_json


@click.command("check", short_help="Check that an installed method keeps the contract.")
@click.argument("method", shell_complete=complete.methods)
@click.option("--task", metavar="NAME", shell_complete=complete.tasks, help="On whose networks and samples.")
@click.option("--slow", is_flag=True, help="Also run the checks that take minutes.")
@options.json
@options.debug
@click.pass_context
def command(ctx: click.Context, method: str, task: str | None, slow: bool, as_json: bool) -> None:
    """Check that an installed method keeps what the contract promises the engine.

    The checks run on the CPU with the task's tiny networks: taps, finite terms, what trains, saved state, replayed
    teachers, compilation, two processes. They are those of kdtool.testing, which a method's own tests use. The exit
    code is 1 where one fails.

    \b
    Examples:
      kdtool check my_method
      kdtool check my_method --slow --json
    """
    from kdtool import registry
    from kdtool.errors import InputError

    if method == registry.NONE:
        raise InputError(f"{method} is the engine without a method: there is nothing to check.")
    cls = registry.get(method)
    from kdtool.terminal import checks
    from kdtool.testing import run_checks

    with contextlib.redirect_stdout(sys.stderr), checks.progress(sys.stderr) as show:
        outcomes = [show(outcome) for outcome in run_checks(cls, method, task=task, slow=slow)]
    if as_json:
        click.echo(strict_json.dumps(checks.document(method, outcomes), indent=2, ensure_ascii=False))
    else:
        checks.show_table(method, outcomes, sys.stdout)
    ctx.exit(0 if checks.passed(outcomes) else 1)
