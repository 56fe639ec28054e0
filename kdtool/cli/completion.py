"""``kdtool completion``."""

from __future__ import annotations

import click

from kdtool.cli import options
from kdtool.system import strict_json

_WHERE = {
    "bash": '~/.bashrc: eval "$(kdtool completion bash)"',
    "zsh": '~/.zshrc: eval "$(kdtool completion zsh)"',
    "fish": "~/.config/fish/completions/kdtool.fish: kdtool completion fish | source",
}


@click.command("completion", short_help="Print the script that completes kdtool's words in your shell.")
@click.argument("shell", type=click.Choice(list(_WHERE)))
@options.json
@options.debug
@click.pass_context
def command(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the script that makes SHELL (bash, zsh or fish) complete commands, flags, methods, models and recipes.

    The list of models is made here, so after an update of timm run it once more.

    \b
    Examples:
      kdtool completion bash >> ~/.bashrc
      kdtool completion fish | source
    """
    from click.shell_completion import get_completion_class

    from kdtool.cli.complete import keep_model_names

    keep_model_names()
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    writer = kind(ctx.find_root().command, {}, "kdtool", "_KDTOOL_COMPLETE")
    # Not source(), which runs the shell to ask its version: the script is the same.
    script = writer.source_template % writer.source_vars()
    click.echo(strict_json.dumps({"shell": shell, "script": script, "goes_to": _WHERE[shell]}) if as_json else script)
