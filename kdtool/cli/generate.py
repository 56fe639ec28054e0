"""``kdtool generate``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError
from kdtool.system import strict_json

_SHARE = click.FloatRange(0, 1)


def _pair(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    low, _colon, high = (value or "").partition(":")
    if value is None:
        return None
    if not low.isdecimal() or not high.isdecimal() or int(low) > int(high):
        raise click.BadParameter(f"{value!r} is no MIN:MAX, such as 1:500.", param=parameter)
    return int(low), int(high)


def _params(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is no NAME=VALUE, such as min_p=0.1.", param=parameter)
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


@click.command("generate", short_help="Ask a teacher, and keep its answers as data to train on.")
@click.option("--teacher", required=True, metavar="URL#MODEL|vllm:MODEL|TARGET", shell_complete=complete.models,
              help="A server that speaks OpenAI's chat completions, a model for vLLM, or a network.")  # fmt: skip
@click.option("--data", required=True, metavar="FILE", type=options.PathName(), help="The questions.")
@click.option("--out", required=True, metavar="FOLDER", type=options.PathName(), help="Where the set is written.")
@click.option("--style", metavar="NAME|FILE", default="answer", show_default=True, shell_complete=complete.styles,
              help="How it is asked: a style that kdtool brings, such as cot, or a file like theirs.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), metavar="N", default=1, show_default=True,
              help="Answers to each question.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N questions.")
@click.option("--count", type=click.IntRange(1), metavar="N", default=100, show_default=True,
              help="Tasks to make up (instruct).")  # fmt: skip
@click.option("--demonstrations", metavar="FILE", type=options.PathName(),
              help="Questions with answers, of which some are shown (icl).  [default: the data]")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, 10), callback=options.finite, metavar="T",
              help="[default: 0; 0.7 for several answers]")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), callback=options.finite, metavar="P", default=1.0,
              help="Share of the probability that is sampled from.  [default: 1]")  # fmt: skip
@click.option("--new-tokens", type=click.IntRange(1), metavar="N", default=512, show_default=True,
              help="Tokens of an answer at most.")  # fmt: skip
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Of answers and demonstrations.")
@click.option("--logprobs", type=click.IntRange(0, 1000), metavar="N", default=0,
              help="Keep the N likeliest tokens' log-probabilities, where the teacher gives them.")  # fmt: skip
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", callback=_params,
              help="More for the request's body, as JSON; null leaves a usual value out. Repeatable.")  # fmt: skip
@click.option("--answer", metavar="gsm8k|exact|PATTERN",
              help="How final answers are found: by ####, all of it, or a pattern's last match.")  # fmt: skip
@click.option("--keep-correct", is_flag=True, help="Keep answers that come to the known one.")
@click.option("--agree", type=_SHARE, callback=options.finite, metavar="SHARE",
              help="Keep answers that come to what most do, if so large a share does.")  # fmt: skip
@click.option("--words", metavar="MIN:MAX", callback=_pair, help="Keep answers of so many words.")
@click.option("--repetition", type=_SHARE, callback=options.finite, metavar="SHARE",
              help="Keep answers that repeat at most so much of themselves.")  # fmt: skip
@click.option("--near-duplicates", type=click.FloatRange(0, 1, min_open=True), callback=options.finite,
              metavar="SHARE", help="Leave out what shares so much with an earlier one.")  # fmt: skip
@click.option("--not-in", metavar="FILE", type=options.PathName(),
              help="Leave out what shares 13 words in a row with these test questions.")  # fmt: skip
@click.option("--keep-cut", is_flag=True, help="Keep answers that were cut off.")
@click.option("--keep-marks", is_flag=True, help="Ask questions that hold marks of a chat template, too.")
@click.option("--concurrency", type=click.IntRange(1, 512), metavar="N", default=8, show_default=True,
              help="Requests at a time.")  # fmt: skip
@click.option("--retries", type=click.IntRange(0), metavar="N", default=6, show_default=True,
              help="How often a failed request is sent again.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), callback=options.finite, metavar="S",
              default=600.0, help="Seconds until a request counts as failed.  [default: 600]")  # fmt: skip
@click.option("--max-requests", type=click.IntRange(1), metavar="N", help="Requests of the whole set at most.")
@click.option("--max-tokens-total", type=click.IntRange(1), metavar="N", help="Tokens of the whole set at most.")
@click.option("--price", metavar="IN,OUT", help="What a million tokens cost, read and written.")
@click.option(
    "--key-env", metavar="NAME", help="Environment variable with the server's key.  [default: KDTOOL_API_KEY]"
)
@click.option("--any-model", is_flag=True, help="Take answers of a model that calls itself something else.")
@click.option("--task", metavar="NAME", help="Whose network the teacher is.  [default: the task whose networks write]")
@click.option("--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N.")
@click.option("--dry-run", is_flag=True, help="Ask nothing; say what would be asked, and what it may cost.")
@options.json
@click.option("--quiet", is_flag=True, help="Only warnings.")
@options.debug
def command(as_json: bool, quiet: bool, **given: Any) -> None:
    """Ask a teacher for answers and keep them as a folder to train on, by `kdtool run`.

    Each answer is on the disk before the next is asked for: the same command goes on where it was stopped, and asks
    only for what is missing. The server's key comes from an environment variable and is never written.

    \b
    Examples:
      kdtool generate --teacher http://localhost:8000/v1#qwen3-32b --data questions.jsonl --style cot --out taught
      kdtool generate --teacher models/large --data tasks.jsonl --samples 4 --out taught --answer gsm8k --keep-correct
    """
    if quiet and as_json:
        raise InputError("--quiet and --json exclude each other.")
    from kdtool import terminal
    from kdtool.terminal.generation import show

    with terminal.choose(json=as_json, quiet=quiet) as reporter, options.guarded_stdout(as_json):
        from kdtool.generation.api import generate

        found = generate(**given, reporter=reporter)
    if as_json:
        click.echo(strict_json.dumps(found, indent=2, ensure_ascii=False))
    elif not quiet:
        show(found, given["out"], sys.stdout)
