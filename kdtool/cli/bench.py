"""``kdtool bench``."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from kdtool.cli import complete, flags, options
from kdtool.system import strict_json


@click.command("bench", short_help="Measure what a step costs on this machine.")
@flags.recipe(but=["--precision"])
@click.option("--precision", multiple=True, metavar="NAME", help="Rows of these only.  [default: fp32 and bf16]")
@click.option(
    "--methods",
    metavar="A,B|all",
    shell_complete=complete.methods,
    help="Compare methods' steps with the default method's instead.",
)
@click.option("--pairs", type=click.IntRange(2), default=21, show_default=True, help="Pairs of blocks in a row.")
@click.option("--steps", type=click.IntRange(1), default=2, show_default=True, help="Steps in a block.")
@options.json
@options.debug
def command(
    arguments: tuple[str, ...],
    precision: tuple[str, ...],
    methods: str | None,
    pairs: int,
    steps: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure what a step costs on this machine, beside what its arithmetic costs.

    The floor is a bare loop that does the same arithmetic on ready batches and nothing else. Blocks of it and of the
    engine take turns, so that a noisy machine disturbs both; shares are medians of pairs with a 95 % interval.
    Nothing is kept, and teachers are taken untrained.

    \b
    Examples:
      kdtool bench --teacher resnet50 --student mobilenetv3
      kdtool bench --teacher resnet32x4 --student resnet8x4 --data cifar100/ --methods all --json
    """
    path, overrides = flags.one_recipe(arguments)
    from kdtool.recipe import load as recipe

    wanted = recipe.load(path, overrides, flags.values(given))
    _check_precisions(precision)
    from kdtool.measure.bench.rows import bench
    from kdtool.terminal.bench import show

    with contextlib.redirect_stdout(sys.stderr):
        found = bench(
            wanted,
            precisions=precision or ("fp32", "bf16"),
            pairs=pairs,
            steps=steps,
            methods=tuple(methods.split(",")) if methods else (),
            say=lambda text: click.echo(text, err=True),
        )
    if as_json:
        click.echo(strict_json.dumps(found, indent=2))
    else:
        show(found, sys.stdout)


def _check_precisions(names: tuple[str, ...]) -> None:
    from kdtool.errors import InputError

    valid = ("fp32", "bf16", "fp16", "fp64")
    wrong = [name for name in names if name not in valid]
    if wrong:
        raise InputError(f"--precision {wrong[0]} is none. Valid: {', '.join(valid)}.")
