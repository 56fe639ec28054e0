"""``kdtool bench``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from kdtool.cli import complete, flags, options
from kdtool.system import strict_json


@click.command("bench", short_help="Measure what a step, or reading, costs on this machine.")
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
    """Measure what a step costs on this machine, beside what its arithmetic costs; of data alone, what reading costs.

    The floor is a bare loop that does the same arithmetic on ready batches and nothing else. Blocks of it and of the
    engine take turns, so that a noisy machine disturbs both; shares are medians of pairs with a 95 % interval.
    Nothing is kept, and teachers are taken untrained.

    Where a folder of images is named and no network or method, what is measured is reading it: decoding, transform and
    transfer apart, and the whole loader, beside timm's and torchvision's on the same files, in turn.

    \b
    Examples:
      kdtool bench --teacher resnet50 --student mobilenetv3
      kdtool bench --data photos/ data.draft=true
    """
    path, overrides = flags.one_recipe(arguments)
    from kdtool.recipe import load as recipe

    chosen = flags.values(given)
    wanted = recipe.load(path, overrides, chosen)
    _check_precisions(precision)
    plain = path is None and not methods and not precision
    if plain and _of_data(map(recipe.split_override, overrides), chosen) and _bench_reading(wanted, pairs, as_json):
        return
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


def _of_data(overrides: Iterable[tuple[str, Any]], given: Mapping[str, Any]) -> bool:
    """Tell whether only data are named, and how they are read: there is no step to measure."""
    keys = {*dict(overrides), *given}
    return "data.name" in keys and all(
        key.partition(".")[0] in ("task", "data") or key in ("train.batch_size", "train.device") for key in keys
    )


def _bench_reading(wanted: Any, pairs: int, as_json: bool) -> bool:
    """Measure what reading costs and show it; False: the task cannot tell of such data."""
    from kdtool.measure.bench.reading import bench_reading
    from kdtool.terminal.reading import show

    with contextlib.redirect_stdout(sys.stderr):
        found = bench_reading(wanted, pairs=pairs, say=lambda text: click.echo(text, err=True))
    if found is None:
        return False
    if as_json:
        click.echo(strict_json.dumps(found, indent=2))
    else:
        show(found, sys.stdout)
    return True


def _check_precisions(names: tuple[str, ...]) -> None:
    from kdtool.errors import InputError

    valid = ("fp32", "bf16", "fp16", "fp64")
    wrong = [name for name in names if name not in valid]
    if wrong:
        raise InputError(f"--precision {wrong[0]} is none. Valid: {', '.join(valid)}.")
