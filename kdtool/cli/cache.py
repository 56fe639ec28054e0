"""``kdtool cache``."""

from __future__ import annotations

import sys
from typing import Any

import click

from kdtool.cli import flags, options
from kdtool.errors import RunError
from kdtool.system import strict_json


@click.group("cache", short_help="Keep teachers' outputs for later runs.")
def command() -> None:
    """Keep teachers' outputs, so that later runs replay them instead of running the teacher.

    A cache holds the logits, and the embedding where a method reads it, for data.views=K views of every training
    sample. It lies in KDTOOL_HOME and serves every method, seed and student that trains on the same views;
    `kdtool run --teacher-cache` builds and uses it.

    \b
    Examples:
      kdtool cache build recipe.yaml data.views=4 --jobs 4
      kdtool cache info
    """


@command.command("build")
@flags.recipe(but=["--teacher-cache"], several=True)
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes that compute.  [default: cache.jobs]")
@click.option("--dry-run", is_flag=True, help="Only say how large it would be.")
@options.json
@click.option("--quiet", is_flag=True, help="Only warnings.")
@options.debug
def build(
    arguments: tuple[str, ...], jobs: int | None, dry_run: bool, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Compute what is not kept yet, for one recipe or several.

    Shards that are there stay after their checksums are verified, so a build that was stopped goes on.

    \b
    Examples:
      kdtool cache build recipe.yaml data.views=4 --jobs 4
      kdtool cache build --teacher resnet50 --data photos data.views=2 cache.top_k=16 --dry-run
    """
    from kdtool import terminal as report
    from kdtool.recipe import load as recipe
    from kdtool.terminal import words

    paths, overrides = options.sort_arguments(arguments)
    places: list[str | None] = [*paths] or [None]
    by_key = {**flags.values(given), "cache.mode": "build"}
    with report.choose(json=as_json, quiet=quiet) as reporter, options.guarded_stdout(as_json):
        wanted = [recipe.load(path, overrides, by_key, reporter.note) for path in places]
        from kdtool.cache.manage import build_cache

        done = [each for one in wanted for each in build_cache(one, jobs=jobs, reporter=reporter, dry_run=dry_run)]
    if as_json:
        click.echo(strict_json.dumps(done, indent=2))
    elif not quiet or dry_run:
        for each in done:
            outputs = " and ".join(f"{name} ({width})" for name, width in each["parts"].items())
            about = f"{outputs} of {each['samples']} samples in {each['views']} views"
            where = f" in {each['folder']}" if each["folder"] else ""
            click.echo(
                words.clean(f"{each['teacher']}: {about}, {words.size(each['bytes'])} ({each['bytes']} bytes){where}")
            )


@command.command("info", short_help="List the caches and the trained teachers.")
@options.json
@options.debug
def info(as_json: bool) -> None:
    """List teachers' kept outputs and the trained teachers themselves: of what, how large, when last used.

    \b
    Examples:
      kdtool cache info
      kdtool cache info --json | jq -r '.[].name'
    """
    from kdtool.cache.manage import list_caches
    from kdtool.terminal import caches

    entries = list_caches()
    if as_json:
        click.echo(strict_json.dumps(entries, indent=2))
    else:
        caches.show_list(entries, sys.stdout)


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[CACHE]...")
@options.json
@options.debug
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Read every byte of the caches named, or of all, and compare checksums.

    The exit code is 3 where a shard is damaged; `kdtool cache build`, or the next run, computes it again.

    \b
    Examples:
      kdtool cache verify
      kdtool cache verify resnet50-0123456789abcdef --json
    """
    from kdtool.cache.manage import verify_caches
    from kdtool.terminal import words

    found = verify_caches(names)
    if as_json:
        click.echo(strict_json.dumps(found, indent=2))
    for each in [] if as_json else found:
        for sentence in each["damaged"]:
            click.echo(words.clean(sentence))
        state = "damaged" if each["damaged"] else "sound"
        lacking = f", {each['missing']} lack" if each["missing"] else ""
        click.echo(words.clean(f"{each['name']}: {state}, {each['shards']} shards{lacking}"))
    count = sum(bool(each["damaged"]) for each in found)
    if count:
        raise RunError(
            f"{count} of {len(found)} teacher caches are damaged; `kdtool cache build RECIPE` computes what is, "
            "`kdtool cache prune CACHE` removes one."
        )


@command.command("prune")
@click.argument("names", nargs=-1, metavar="[CACHE]...")
@click.option(
    "--days", type=click.FloatRange(0), default=30.0, callback=options.finite, metavar="N",
    help="Unused for so long.  [default: 30]",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Remove nothing, say what would go.")
@options.json
@options.debug
def prune(names: tuple[str, ...], days: float, dry_run: bool, as_json: bool) -> None:
    """Remove the caches named; without names those unfinished, unreadable, or unused for some days.

    Trained teachers count: those named, or unused for so long. A run that needs one again trains it again.

    \b
    Examples:
      kdtool cache prune --dry-run
      kdtool cache prune --days 7
    """
    from kdtool.cache.manage import prune_caches
    from kdtool.terminal import words

    gone = prune_caches(names, days, dry_run)
    if as_json:
        click.echo(strict_json.dumps(gone, indent=2))
        return
    for each in gone:
        click.echo(words.clean(f"{each['name']}: {each['why']}, {words.size(each['bytes'])}"))
    verb = "would go" if dry_run else "removed"
    click.echo(f"{len(gone)} caches and teachers {verb}, {words.size(sum(each['bytes'] for each in gone))}")
