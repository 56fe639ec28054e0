"""What the shell offers after a Tab: methods, models, recipes. Nothing here imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def methods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer methods; after a + the next part of a composition, after a comma the next of a list."""
    from kdtool import registry

    listed, _, composition = incomplete.rpartition(",")
    before, plus, part = composition.rpartition("+")
    taken = before.split("+") if plus else listed.split(",")
    known = registry.names() if plus else [*registry.names(), registry.NONE]
    return _after(incomplete, part, (name for name in known if name not in taken))


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer tasks."""
    from kdtool.registry import tasks

    return _after(incomplete, incomplete, tasks.names())


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the tasks' models, after a comma the next of a list; files, too."""
    return _after(incomplete, incomplete.rpartition(",")[2], model_names()) or _files(incomplete)


def styles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer built-in styles of asking, and files."""
    from kdtool.generation.style import built_in

    return _after(incomplete, incomplete, built_in()) or _files(incomplete)


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer shipped recipes, and files."""
    from kdtool.recipe.yaml_file import shipped_names

    return _after(incomplete, incomplete, shipped_names()) or _files(incomplete)


def model_names() -> list[str]:
    """Return the kept list of models; before ``keep_model_names`` made it, what the tasks can tell at once."""
    with suppress(OSError, ValueError):
        return _kept().read_text(encoding="utf-8").splitlines()[1:]
    return _models_of_tasks(quick=True)


def keep_model_names() -> None:
    """Keep the names of all tasks' models where the shell finds them without the seconds that importing takes.

    Nothing is done where the list was made with the packages that are installed now.
    """
    installed = sorted(f"{each.name}=={each.version}" for each in distributions())
    made_with = hashlib.sha256(" ".join(installed).encode()).hexdigest()
    with suppress(OSError, ValueError):
        if _kept().read_text(encoding="utf-8").startswith(made_with + "\n"):
            return
    from kdtool.system.disk import write_whole

    _kept().parent.mkdir(parents=True, exist_ok=True)
    write_whole(_kept(), "\n".join([made_with, *_models_of_tasks(quick=False)]) + "\n")


def _models_of_tasks(quick: bool) -> list[str]:
    from kdtool.registry import tasks

    ready = [entry.load() for entry in tasks.entries() if entry.error is None]
    return list(dict.fromkeys(name for task in ready for name in task.model_names(quick)))


def _kept() -> Path:
    from kdtool.system.home import home

    return home() / "models.txt"


def _after(incomplete: str, part: str, names: Iterable[str]) -> list[CompletionItem]:
    """Offer the names that begin as ``part``, which ``incomplete`` ends with, does."""
    before = incomplete.removesuffix(part)
    return [CompletionItem(before + name) for name in names if name.startswith(part)]


def _files(incomplete: str) -> list[CompletionItem]:
    """Let the shell offer files, where no name fits."""
    return [CompletionItem(incomplete, type="file")]
