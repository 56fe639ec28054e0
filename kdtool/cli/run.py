"""``kdtool run``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError

_FLAGS = {
    "method": "method",
    "teacher": "teacher.model",
    "teacher_weights": "teacher.weights",
    "student": "student.model",
    "student_weights": "student.weights",
    "data": "data.name",
    "image_size": "data.image_size",
    "workers": "data.workers",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "device": "train.device",
    "precision": "train.precision",
    "lr": "optim.lr",
    "assistant": "assistants",
    "generations": "generations",
    "teacher_cache": "cache.mode",
    "out": "out",
    "baseline": "baseline",
    "auto_batch": "train.auto_batch",
    "track": "track.to",
}
"""The recipe key behind each flag."""


_model = partial(click.option, metavar="MODEL", shell_complete=complete.models)


@click.command("run", short_help="Distil a student from a teacher.")
@click.argument("arguments", nargs=-1, metavar="[RECIPE.yaml] [KEY=VALUE]...", shell_complete=complete.recipes)
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=complete.methods,
    help="Distillation method, several joined by +, or none.",
)
@_model("--teacher", multiple=True, help="Teacher; repeat for several.  [default: resnet50]")
@_model("--student", help="Student.  [default: mobilenetv3]")
@click.option(
    "--data",
    type=options.PathName(),
    metavar="NAME|FOLDER",
    help="Data set: digits, a folder, or a name that timm knows.",
)
@click.option("--teacher-weights", multiple=True, metavar="W", help="Once for each --teacher, in the same order.")
@click.option("--student-weights", metavar="W", help="auto, pretrained, scratch, or a file of weights.")
@_model("--assistant", multiple=True, help="Model between teacher and student; repeatable.")
@click.option("--generations", type=int, metavar="N", help="Students in a row, each taught by the one before.")
@click.option("--epochs", type=int, metavar="N", help="Epochs of the student.")
@click.option("--batch-size", type=int, metavar="N", help="Samples in a batch.")
@click.option("--lr", type=float, metavar="X", help="Peak learning rate.")
@click.option("--image-size", type=int, metavar="N", help="Pixels a side.")
@click.option("--seed", type=int, metavar="N", help="Seed of first weights, order and dropout.")
@click.option("--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N.")
@click.option("--precision", metavar="NAME", help="fp32, bf16, fp16 or fp64.")
@click.option("--workers", type=int, metavar="N", help="Processes that decode images.")
@click.option("--nproc", type=click.IntRange(1), metavar="N", help="Processes on this machine, one a GPU.")
@click.option("--teacher-cache", is_flag=True, default=None, help="Keep the teacher's outputs, and replay kept ones.")
@click.option("--out", type=options.PathName(), metavar="FOLDER", help="The run's folder.")
@click.option(
    "--resume", type=options.PathName(), metavar="FOLDER", help="Go on with the run in FOLDER, by its own recipe."
)
@click.option("--accept-changes", is_flag=True, help="With --resume: go on though its recipe was changed.")
@click.option("--baseline", is_flag=True, default=None, help="Also train the student alone, on the same budget.")
@click.option("--auto-batch", is_flag=True, default=None, help="Where memory runs out, split the batch and go on.")
@click.option("--track", multiple=True, metavar="NAME", help="tensorboard, wandb or mlflow; repeatable.")
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
    if given["teacher_cache"]:
        given["teacher_cache"] = "build"
    flags = {_FLAGS[name]: value for name, value in given.items() if value not in (None, ())}
    paths, overrides = options.sort_arguments(arguments)
    if len(paths) > 1:
        raise InputError(f"one recipe at a time; got {' and '.join(paths)}. An override has the form key=value.")
    if resume is not None:
        _refuse_beside_resume([*paths, *(["--dry-run"] if dry_run else [])])
    elif accept_changes:
        raise InputError("--accept-changes goes with --resume FOLDER.")
    from kdtool import terminal as report
    from kdtool.recipe import load as recipe
    from kdtool.runs import environment
    from kdtool.system import parallel

    with report.choose(json=as_json, quiet=quiet) as reporter, options.guarded_stdout(as_json):
        # The recipe is read before the engine is imported, so that a slip is answered at once.
        wanted = None if resume else recipe.load(paths[0] if paths else None, overrides, flags, reporter.note)
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
                resume=resume, overrides=overrides, flags=flags, accept_changes=accept_changes, reporter=reporter
            )
        if dry_run:
            reporter.done(result.to_dict())
    if as_json and parallel.is_first():
        click.echo(json.dumps(result.to_dict(), indent=2))


def _refuse_beside_resume(others: list[str]) -> None:
    if others:
        raise InputError(
            f"--resume goes on with a run as it was begun, so {', '.join(others)} cannot change it. "
            "Leave it out, or start a new run."
        )
