"""``kdtool run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdtool.cli import flags, options
from kdtool.errors import InputError
from kdtool.system import strict_json


@click.command("run", short_help="Distil a student from a teacher.")
@flags.recipe(kept=True)
@click.option("--nproc", type=click.IntRange(1), metavar="N", help="Processes on this machine, one a GPU.")
@click.option(
    "--resume",
    type=options.PathName(),
    metavar="FOLDER",
    help="Go on with the run in FOLDER, by its own recipe; with --epochs make a finished one longer.",
)
@click.option("--accept-changes", is_flag=True, help="With --resume: go on though its recipe was changed.")
@click.option("--dry-run", is_flag=True, help="Print recipe, tap shapes and parameter counts; train nothing.")
@options.json
@click.option("--quiet", is_flag=True, help="Only warnings and the final table.")
@options.debug
def command(
    arguments: tuple[str, ...],
    resume: str | None,
    accept_changes: bool,
    dry_run: bool,
    nproc: int | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Distil a student from a teacher.

    Everything about a run can stand in a recipe, a YAML file: by path, or by the name of one that kdtool ships.
    Flags overrule the recipe, and KEY=VALUE overrules both. A method's options live under its own name;
    `kdtool show METHOD` lists them.

    \b
    Examples:
      kdtool run --teacher resnet50 --student mobilenetv3 --data photos/ --baseline
      kdtool run recipe.yaml --epochs 10 optim.weight_decay=0.01 teacher.train.epochs=5
    """
    by_key = flags.values(given)
    path, overrides = flags.one_recipe(arguments)
    if resume is not None:
        _refuse_beside_resume([*([path] if path else []), *(["--dry-run"] if dry_run else [])])
    elif accept_changes:
        raise InputError("--accept-changes goes with --resume FOLDER.")
    from kdtool import terminal as report
    from kdtool.recipe import load as recipe
    from kdtool.runs import environment
    from kdtool.system import parallel

    with report.choose(json=as_json, quiet=quiet) as reporter, options.guarded_stdout(as_json):
        # The recipe is read before the engine is imported, so that a slip is answered at once.
        wanted = None if resume else recipe.load(path, overrides, by_key, reporter.note)
        nproc = nproc or (environment.processes_of(Path(resume)) if resume else 1)
        if nproc > 1 and not dry_run and not parallel.launched():
            reporter.close()
            ctx = click.get_current_context()
            ctx.exit(parallel.launch(nproc, ctx.meta["kdtool.arguments"]))
        from kdtool.runs import api

        if resume is None:
            result = api.run(wanted, reporter=reporter, dry_run=dry_run)
        else:
            result = api.run(
                resume=resume, overrides=overrides, flags=by_key, accept_changes=accept_changes, reporter=reporter
            )
        if dry_run:
            reporter.done(result.to_dict())
    if as_json and parallel.is_first():
        click.echo(strict_json.dumps(result.to_dict(), indent=2))


def _refuse_beside_resume(others: list[str]) -> None:
    if others:
        raise InputError(
            f"--resume goes on with a run as it was begun, so {', '.join(others)} cannot change it. "
            "Leave it out, or start a new run."
        )
