"""``kdtool doctor``."""

from __future__ import annotations

import dataclasses

import click

from kdtool.cli import options
from kdtool.system import strict_json


@click.command("doctor", short_help="Look for what would keep kdtool from working here.")
@options.json
@options.debug
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Look for what would keep kdtool from working on this machine, and say how to mend it.

    Python, torch, torchvision and timm and whether they fit one another, devices and bf16, memory, disk, writable
    caches, plugins and extras. The exit code is 3 where there is a fault; it works with a broken torch, too.

    \b
    Examples:
      kdtool doctor
      kdtool doctor --json | jq '.checks[] | select(.state == "fault")'
    """
    from kdtool.measure.health import doctor, healthy
    from kdtool.terminal import words

    checks = doctor()
    if as_json:
        document = {"healthy": healthy(checks), "checks": [dataclasses.asdict(check) for check in checks]}
        click.echo(strict_json.dumps(document, indent=2, ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{check.state:5}  {words.clean(check.name):{width}}  {words.clean(check.found)}")
            if check.fix:
                click.echo(f"{'':5}  {'':{width}}  -> {words.clean(check.fix)}")
    ctx.exit(0 if healthy(checks) else 3)
