"""``kdtool new-method``."""

from __future__ import annotations

from pathlib import Path

import click

from kdtool.cli import options
from kdtool.system import strict_json


@click.command("new-method", short_help="Write the package of a new method.")
@click.argument("name")
@click.option(
    "--out", metavar="FOLDER", type=options.PathName(path_type=Path), help="Where to.  [default: kdtool-NAME]"
)
@options.json
@options.debug
def command(name: str, out: Path | None, as_json: bool) -> None:
    """Write a pip-installable package with a small method, its test and a README, for you to change.

    It passes its own test as written. NAME becomes the name that --method takes, with _ for -.

    \b
    Examples:
      kdtool new-method my-method
      kdtool new-method my-method --out plugins/mine
    """
    from kdtool.testing.scaffold import new_method

    made = new_method(name, out)
    if as_json:
        document = {"method": made.method, "folder": str(made.folder), "files": [str(path) for path in made.files]}
        click.echo(strict_json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(f"wrote {made.folder} with the method {made.method}. Next:")
    for line in (f"cd {made.folder}", "pip install -e '.[test]'", "pytest", f"kdtool check {made.method}"):
        click.echo(f"  {line}")
