"""``kdtool eval``."""

from __future__ import annotations

import sys

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError
from kdtool.system import strict_json


@click.command("eval", short_help="Measure a run, a model or an exported file on data.")
@click.argument("target", shell_complete=complete.models)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@options.task
@click.option("--data", metavar="NAME|FOLDER", help="Data to measure on.  [default: the run's own]")
@click.option(
    "--split", metavar="NAME", help="test, val, train or all.  [default: test; all of --data without a test split]"
)
@click.option(
    "--teacher",
    metavar="TARGET",
    shell_complete=complete.models,
    help="What to compare with.  [default: the run's own teachers]",
)
@click.option("--weights", metavar="W", default="auto", help="Weights of a model that is given by name.")
@click.option("--image-size", type=int, metavar="N", help="Pixels a side, for a model that is given by name.")
@click.option(
    "--corrupt",
    multiple=True,
    metavar="KIND[:1-5]",
    help="Pictures: noise, blur, jpeg. Sentences: typos, case, drop. Repeatable.",
)
@click.option("--bias", multiple=True, metavar="CLASS=VALUE", help="Add to a class's logit; repeatable.")
@click.option("--predictions", metavar="FILE", help="Write each sample's prediction and logits, as .parquet or .csv.")
@click.option("--generate", type=click.IntRange(0), metavar="N", help="Let language models answer so many prompts.")
@click.option("--new-tokens", type=click.IntRange(1), metavar="N", help="Tokens of an answer at most.  [default: 256]")
@click.option(
    "--answer",
    metavar="gsm8k|PATTERN",
    help="Compare final answers: the number behind ####, or a pattern's last match.",
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Samples at once.")
@click.option("--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N.")
@options.json
@options.debug
def command(
    target: str,
    overrides: tuple[str, ...],
    task: str | None,
    data: str | None,
    split: str | None,
    teacher: str | None,
    weights: str,
    image_size: int | None,
    corrupt: tuple[str, ...],
    bias: tuple[str, ...],
    predictions: str | None,
    generate: int | None,
    new_tokens: int | None,
    answer: str | None,
    batch_size: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure TARGET on data: accuracy, calibration, classes, agreement with its teacher; a language model's
    perplexity, and what it answers.

    TARGET is a run's folder, a student's folder, a model as `kdtool run` takes it, or an exported file (.onnx, .pt2,
    .xml, .tflite, .mlpackage, .engine).
    Classes are matched by name. KEY=VALUE changes how the data is read, by the recipe's data.* keys.

    \b
    Examples:
      kdtool eval runs/resnet50-mobilenetv3-kd-1 --corrupt noise --corrupt jpeg:5
      kdtool eval student.onnx --data photos/ --predictions predictions.parquet --json
    """
    biases = dict(_bias(text) for text in bias)
    from kdtool.measure.evaluate import evaluate
    from kdtool.terminal.evaluation import show

    with options.guarded_stdout(as_json):
        found = evaluate(
            target,
            data,
            task=task,
            split=split,
            teacher=teacher,
            weights=weights,
            image_size=image_size,
            corrupt=corrupt,
            bias=biases,
            predictions=predictions,
            generate=generate,
            new_tokens=new_tokens,
            answer=answer,
            batch_size=batch_size,
            device=device,
            overrides=overrides,
            say=lambda text: click.echo(text, err=True),
        )
    if as_json:
        click.echo(strict_json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show(found, sys.stdout)


def _bias(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    try:
        if not equals or not name:
            raise ValueError
        return name, float(value)
    except ValueError:
        raise InputError(f"--bias {text}: expected CLASS=VALUE, such as cat=-0.5.") from None
