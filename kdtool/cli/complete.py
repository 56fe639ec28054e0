"""What the shell offers after a Tab: methods, models, recipes. Nothing here imports torch or timm."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import entry_points, version
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
    """Offer timm's models, those of plugins and families' names, after a comma the next of a list; files, too."""
    return _after(incomplete, incomplete.rpartition(",")[2], model_names()) or _files(incomplete)


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer shipped recipes, and files."""
    from kdtool.recipe.yaml_file import shipped_names

    return _after(incomplete, incomplete, shipped_names()) or _files(incomplete)


def model_names() -> list[str]:
    """Return the kept list of models; before ``keep_model_names`` made it, families' names alone."""
    from kdtool.tasks.images.models.names import USUAL_MEMBER

    try:
        return [*USUAL_MEMBER, *_kept().read_text(encoding="utf-8").splitlines()[1:]]
    except (OSError, ValueError):
        return list(USUAL_MEMBER)


def keep_model_names() -> None:
    """Keep the names of timm's and plugins' models where the shell finds them without the seconds that importing takes.

    Nothing is done where the list was made with the versions that are installed now.
    """
    from kdtool.tasks.images.models.names import GROUP

    packages = {entry.dist.name for entry in entry_points(group=GROUP) if entry.dist is not None}
    versions = " ".join(f"{name}=={version(name)}" for name in sorted({"timm", *packages}))
    with suppress(OSError, ValueError):
        if _kept().read_text(encoding="utf-8").startswith(versions + "\n"):
            return
    import timm

    from kdtool.system.disk import write_whole
    from kdtool.tasks.images.models.names import register_extra

    register_extra()
    _kept().parent.mkdir(parents=True, exist_ok=True)
    write_whole(_kept(), "\n".join([versions, *timm.list_models()]) + "\n")


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
