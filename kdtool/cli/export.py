"""``kdtool export``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import options
from kdtool.system import strict_json


@click.command("export", short_help="Write a student in formats that run without kdtool.")
@click.argument("target", metavar="RUN", type=options.PathName())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--to",
    metavar="A,B",
    help="program, onnx, onnx-fp16, onnx-int8, torchao-int8, and of images openvino, openvino-fp16, litert, coreml, "
    "coreml-fp16, tensorrt, tensorrt-fp16.  [default: program,onnx]",
)
@click.option("--out", metavar="FOLDER", help="Where to write.  [default: export in the run's folder]")
@click.option("--data", metavar="NAME|FOLDER", help="Data to compare on.  [default: the run's own]")
@click.option("--weights", metavar="FILE", default="auto", help="Weights of a model that is given by name.")
@click.option(
    "--tolerance", type=float, metavar="POINTS", help="Points of accuracy that fp16 (0.5) and int8 (2) may lose."
)
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Upload student and exports to the Hugging Face hub.")
@options.json
@options.debug
def command(
    target: str,
    overrides: tuple[str, ...],
    to: str | None,
    out: str | None,
    data: str | None,
    weights: str,
    tolerance: float | None,
    push_to_hub: str | None,
    as_json: bool,
) -> None:
    """Write the student of RUN in formats that run without kdtool.

    Each file is loaded back, compared with the student on the test split, timed, and removed again (exit code 3) where
    it differs by more than it may. Preprocessing and class names travel inside, a tokenizer beside it. int8's setting
    is chosen on the validation split.

    \b
    Examples:
      kdtool export runs/resnet50-mobilenetv3-kd-1
      kdtool export runs/resnet50-mobilenetv3-kd-1 --to onnx,onnx-int8 --tolerance 1 --push-to-hub me/my-student
    """
    from kdtool.measure.evaluate import export
    from kdtool.terminal.export import show

    with options.guarded_stdout(as_json):
        found = export(
            target,
            None if to is None else [name.strip() for name in to.split(",") if name.strip()],
            out=out,
            data=data,
            weights=weights,
            tolerance=tolerance,
            push_to_hub=push_to_hub,
            overrides=overrides,
            say=lambda text: click.echo(text, err=True),
        )
    if as_json:
        click.echo(strict_json.dumps(found, indent=2))
    else:
        show(found, sys.stdout)
