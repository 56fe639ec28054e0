"""``kdtool inspect``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError

_FLAGS = {
    "method": "method",
    "teacher": "teacher.model",
    "student": "student.model",
    "data": "data.name",
    "image_size": "data.image_size",
    "batch_size": "train.batch_size",
}
"""The recipe key behind each flag."""


@click.command("inspect", short_help="Show two networks side by side and what a method would pair.")
@click.argument("arguments", nargs=-1, metavar="[RECIPE.yaml] [KEY=VALUE]...", shell_complete=complete.recipes)
@click.option(
    "--teacher", multiple=True, metavar="MODEL", shell_complete=complete.models, help="Teacher; repeat for several."
)
@click.option("--student", metavar="MODEL", shell_complete=complete.models, help="Student.")
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=complete.methods,
    help="Distillation method, several joined by +, or none.",
)
@click.option("--data", metavar="NAME|FOLDER", help="Data set, for classes and image size.  [default: digits]")
@click.option("--image-size", type=int, metavar="N", help="Pixels a side.")
@click.option("--batch-size", type=int, metavar="N", help="Samples in a batch.")
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
    flags = {_FLAGS[name]: value for name, value in given.items() if value not in (None, ())}
    paths, overrides = options.sort_arguments(arguments)
    if len(paths) > 1:
        raise InputError(f"one recipe at a time; got {' and '.join(paths)}. An override has the form key=value.")
    from kdtool.recipe import load as recipe

    wanted = recipe.load(paths[0] if paths else None, overrides, flags)
    from kdtool.measure.inspect import inspect
    from kdtool.terminal.inspection import show

    with options.guarded_stdout(as_json):
        found = inspect(wanted)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show(found, sys.stdout)
    if found["problem"]:
        raise InputError(found["problem"])
