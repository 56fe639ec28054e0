"""``kdtool inspect``."""

from __future__ import annotations

import sys
from typing import Any

import click

from kdtool.cli import flags, options
from kdtool.errors import InputError
from kdtool.system import strict_json


@click.command("inspect", short_help="Show two networks side by side and what a method would pair.")
@flags.recipe()
@options.json
@options.debug
def command(arguments: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Show teacher and student side by side: stages, shapes, strides, parameters and MACs.

    And which layers the method would pair, how it would align them, and what a step would cost. Nothing is trained or
    written. Stage numbers are what methods' layer options take.

    \b
    Examples:
      kdtool inspect --teacher resnet50 --student mobilenetv3 --method fitnets
      kdtool inspect --teacher vit_tiny --student resnet18 --image-size 224 --json
    """
    path, overrides = flags.one_recipe(arguments)
    from kdtool.recipe import load as recipe

    wanted = recipe.load(path, overrides, flags.values(given))
    from kdtool.measure.inspect import inspect
    from kdtool.terminal.inspection import show

    with options.guarded_stdout(as_json):
        found = inspect(wanted)
    if as_json:
        click.echo(strict_json.dumps(found, indent=2))
    else:
        show(found, sys.stdout)
    if found["problem"]:
        raise InputError(found["problem"])
