"""``kdtool profile``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError
from kdtool.system import strict_json


@click.command("profile", short_help="Measure size, memory and speed of networks on this machine.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=complete.models)
@click.option("--batch-sizes", default="1,8,32", show_default=True, metavar="A,B", help="Samples at once.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of torch and onnxruntime.")
@click.option("--seconds", type=float, default=1.0, show_default=True, metavar="X", help="Timed for each figure.")
@click.option("--image-size", type=int, metavar="N", help="Pixels a side, for models that are given by name.")
@click.option("--length", type=click.IntRange(1), metavar="N", help="Tokens of a text.  [default: the data's 95th %]")
@click.option(
    "--task", metavar="NAME", shell_complete=complete.tasks, help="What TARGET is of.  [default: as its run says]"
)
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="auto, cpu, mps, cuda or cuda:N.")
@options.json
@options.debug
def command(
    targets: tuple[str, ...],
    batch_sizes: str,
    threads: int | None,
    seconds: float,
    image_size: int | None,
    length: int | None,
    task: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure parameters, MACs, file size, activation memory, latency and throughput.

    TARGET is a run's folder (its teachers, student and exports), a saved model, a model's name or an exported file.
    Networks take turns while they are timed, so that whatever else the machine does disturbs all of them alike.

    \b
    Examples:
      kdtool profile runs/resnet50-mobilenetv3-kd-1
      kdtool profile resnet50 mobilenetv3 --image-size 224 --batch-sizes 1,16 --threads 1 --json
    """
    if not all(each.strip().isdecimal() and int(each) > 0 for each in batch_sizes.split(",")):
        raise InputError(f"--batch-sizes {batch_sizes}: expected whole numbers from 1 on, such as 1,8,32.")
    from kdtool.measure.profile import profile
    from kdtool.terminal.profile import show

    with options.guarded_stdout(as_json):
        found = profile(
            *targets,
            batch_sizes=[int(each) for each in batch_sizes.split(",")],
            threads=threads,
            seconds=seconds,
            image_size=image_size,
            length=length,
            task=task,
            device=device,
            say=lambda text: click.echo(text, err=True),
        )
    if as_json:
        click.echo(strict_json.dumps(found, indent=2))
    else:
        show(found, sys.stdout)
