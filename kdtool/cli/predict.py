"""``kdtool predict``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError


@click.command("predict", short_help="Tell the classes of new inputs, or complete prompts.")
@click.argument("target", shell_complete=complete.models)
@click.argument("inputs", nargs=-1, required=True, metavar="FILE|-...")
@options.task
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="K",
    default=1,
    show_default=True,
    help="Classes of each input, and where it has several, at least so many.",
)
@click.option("--weights", metavar="W", default="auto", help="Weights of a model that is given by name.")
@click.option("--image-size", type=int, metavar="N", help="Pixels a side, for a model that is given by name.")
@click.option(
    "--new-tokens", type=click.IntRange(1), metavar="N", help="Tokens of a completion at most.  [default: 256]"
)
@click.option(
    "--sort",
    "order",
    type=click.Choice(["confidence", "class"]),
    help="All inputs in order: the least certain first, or class by class.  [default: as they come]",
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Inputs at once.")
@click.option("--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N.")
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV: file, line, input; rank, class, probability, or completion, finished.",
)
@options.json
@options.debug
def command(
    target: str,
    inputs: tuple[str, ...],
    task: str | None,
    top: int,
    order: str | None,
    new_tokens: int | None,
    weights: str,
    image_size: int | None,
    batch_size: int | None,
    device: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Tell the class of each new input, and how likely it is; of a language model, what it writes to each prompt.

    TARGET is what `kdtool eval` takes. Of sentences, FILE holds one a line (of pairs two, with a tab between) or is a
    table (.tsv, .csv, .jsonl, .parquet) whose column data.text=[NAME] names, and - is standard input, read as it comes.
    Of pictures, FILE is one of them or a folder, and - is one on standard input. Of prompts, FILE holds one a line or
    is a table as `kdtool generate` takes it; they are posed as the model's chat template has it, or gone on with as
    they are (data.template=plain). What cannot be read is told and left out.

    \b
    Examples:
      kdtool predict runs/transformer-tiny-bilstm-kd-1 reviews.txt --top 3 --sort confidence
      tail -f app.log | kdtool predict runs/transformer-tiny-bilstm-kd-1 - --csv
    """
    if as_csv and as_json:
        raise InputError("--csv and --json exclude each other.")
    from kdtool.measure.predict import predict
    from kdtool.terminal.prediction import AsCsv, AsJson, AsTable, in_order, write

    files, overrides = options.sort_arguments(inputs)
    writer = (AsCsv if as_csv else AsJson if as_json else AsTable)(sys.stdout)
    with options.guarded_stdout(as_json or as_csv):
        found = predict(
            target,
            files,
            task=task,
            weights=weights,
            image_size=image_size,
            top=top,
            new_tokens=new_tokens,
            batch_size=batch_size,
            device=device,
            overrides=overrides,
            say=lambda text: click.echo(text, err=True),
        )
        write(found if order is None else in_order(found, order), writer, sys.stderr)
