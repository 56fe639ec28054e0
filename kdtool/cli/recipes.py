"""``kdtool recipes``."""

from __future__ import annotations

import click

from kdtool.cli import complete, options
from kdtool.system import strict_json


@click.group("recipes", invoke_without_command=True, short_help="List and copy the recipes that kdtool ships.")
@options.json
@options.debug
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the recipes that kdtool ships, with the command that runs each; `recipes copy` gives you one to change.

    \b
    Examples:
      kdtool recipes
      kdtool recipes copy digits/mobilenetv3_from_resnet50_kd.yaml mine.yaml
    """
    if ctx.invoked_subcommand is not None:
        return
    from kdtool.recipe.shipped import shipped_recipes

    found = shipped_recipes()
    if as_json:
        click.echo(strict_json.dumps(found, indent=2, ensure_ascii=False))
        return
    for recipe in found:
        click.echo(f"{recipe['command'] or recipe['name']}\n    {recipe['about']}")


@command.command("copy", short_help="Copy a shipped recipe to where you can change it.")
@click.argument("name", shell_complete=complete.recipes)
@click.argument("to", required=False, type=options.PathName())
@options.json
@options.debug
def copy(name: str, to: str | None, as_json: bool) -> None:
    """Copy the recipe NAME, and those it builds on, to the file or folder TO (default: here).

    \b
    Examples:
      kdtool recipes copy digits/mobilenetv3_from_resnet50_kd
      kdtool recipes copy cifar100/resnet20_from_resnet56.yaml studies/
    """
    from kdtool.recipe.shipped import copy_recipe

    written = [str(path) for path in copy_recipe(name, to)]
    if as_json:
        click.echo(strict_json.dumps(written))
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"Change it, and: kdtool run {written[0]}")
