"""``kdtool compare``."""

from __future__ import annotations

import shlex
from typing import Any

import click

from kdtool.cli import complete, flags, options
from kdtool.errors import InputError, RunError
from kdtool.system import strict_json

_OWN = ("--method", "--student", "--generations", "--assistant", "--out")
"""Flags of one run that a comparison has another word for, or does not have."""


@click.command("compare", short_help="Compare methods over students and seeds, paired.")
@flags.recipe(but=_OWN)
@click.option(
    "--methods",
    metavar="A,B|all",
    shell_complete=complete.methods,
    help="Methods, several joined by +, or none for hard labels alone.",
)
@click.option(
    "--student", multiple=True, metavar="MODEL", shell_complete=complete.models,
    help="Student; repeat for several.  [default: the recipe's]",
)  # fmt: skip
@click.option("--students", metavar="A,B", shell_complete=complete.models, help="The same, in a list.")
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="Runs of each, from train.seed on.  [default: 5]")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Runs at once; cores are shared.  [default: 1]")
@click.option("--tune", type=click.IntRange(1), metavar="N", help="First search each method's options in N trials.")
@click.option("--range", "ranges", multiple=True, metavar="KEY=LOW:HIGH", help="Where --tune looks; or KEY=A,B,C.")
@click.option("--on", type=click.Choice(["ray"]), help="Send the runs to a Ray cluster (RAY_ADDRESS or local).")
@click.option(
    "--out", type=options.PathName(), metavar="FOLDER", help="The comparison's folder.  [default: runs/compare-N]"
)
@click.option(
    "--resume", type=options.PathName(), metavar="FOLDER", help="Go on with the comparison in FOLDER, as it was begun."
)
@options.json
@click.option("--quiet", is_flag=True, help="Only the final table and errors.")
@options.debug
def command(
    arguments: tuple[str, ...],
    ranges: tuple[str, ...],
    resume: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Compare methods over students and seeds, from one recipe.

    Runs of one seed share the order of the data, the budget of student steps and the student to begin with, so that
    differences are paired. Every run lies in FOLDER/STUDENT/METHOD/seed-N, the figures in FOLDER/comparison.json. It
    can be stopped at any moment and resumed; runs that failed are shown, and tried again by --resume.

    \b
    Examples:
      kdtool compare --methods none,kd,rkd --seeds 5 --jobs 2 --teacher resnet50 --student mobilenetv3
      kdtool compare recipe.yaml --methods none,kd,rkd+kd --students resnet18,mobilenetv3 --tune 20 --teacher-cache
    """
    by_key = flags.values(given, but=_OWN)
    given = {name: value for name, value in given.items() if value not in (None, ())}
    path, overrides = flags.one_recipe(arguments)
    if resume is not None:
        naming = ("student", "students", "teacher")
        beside = [*([path] if path else []), *overrides]
        beside += [f"--{name.replace('_', '-')}" for name in given if name not in naming]
        beside += ["--range"] * bool(ranges)
        if beside:
            raise InputError(f"--resume goes on with a comparison as it was begun: leave {', '.join(beside)} out.")
    elif "methods" not in given:
        raise InputError("name the methods to compare: --methods none,kd. `kdtool list-methods` shows all; or all.")
    if ranges and "tune" not in given:
        raise InputError("--range says where --tune looks: give --tune N, or leave it out.")
    from kdtool.terminal.compare import choose

    with choose(json=as_json, quiet=quiet) as watcher, options.guarded_stdout(as_json):
        from kdtool.comparison.compare import compare

        found = compare(
            path,
            methods=_names(given.get("methods")),
            students=[*given.get("student", ()), *_names(given.get("students"))],
            seeds=given.get("seeds", 5),
            overrides=overrides,
            flags=by_key,
            jobs=given.get("jobs", 1),
            tune=given.get("tune", 0),
            ranges=dict(_range(text) for text in ranges),
            on=given.get("on", "here"),
            out=given.get("out"),
            resume=resume,
            watcher=watcher,
        )
    if as_json:
        click.echo(strict_json.dumps(found.values, indent=2))
    elif not quiet:
        click.echo(f"All of it is in {found.folder}; as a page: kdtool report {shlex.quote(str(found.folder))}")
    if failed := found.values["failed"]:
        from kdtool.comparison.plan import resume_command

        runs = len(found.values["runs"])
        raise RunError(f"{failed} of {runs} runs failed. To try them again: {resume_command(found.folder)}")


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _range(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise InputError(f"--range {text!r}: expected KEY=LOW:HIGH or KEY=A,B,C.")
    return key, values
