"""Where a timm network comes from: timm's registry, a folder that timm or kdtool wrote, or the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.images.models.hub import WEIGHT_FILES, cached_file, hub_unreachable

NOT_ARGUMENTS = frozenset(
    (
        *("cache_dir", "checkpoint_path", "exportable", "features_only", "no_jit", "num_classes", "pretrained"),
        *("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "scriptable"),
    )
)
"""What ``model_args`` may not hold: it would load other weights, or make something else than a classifier."""


@dataclass(frozen=True)
class Source:
    """Where a timm network comes from.

    Attributes:
        create_name: what ``timm.create_model`` is called with.
        architecture: its name in timm's registry.
        cfg: timm's ``PretrainedCfg`` as far as needed: input_size, fixed_input_size, num_classes.
        model_args: constructor arguments that come with the source; the user's own go before them.
        folder: where its weights lie, None for a registry's network.
        new_head: a class count that does not fit gives a new head instead of an error.
    """

    create_name: str
    architecture: str
    cfg: dict[str, Any]
    model_args: dict[str, Any]
    folder: Path | None = None
    new_head: bool = True


def find_source(name: str, with_weights: bool) -> Source:
    """Return where a resolved name's network comes from.

    Args:
        name: as ``kdtool.tasks.images.models.names.resolve`` returns it.
        with_weights: whether a hub repository's weights are needed, not only its configuration.

    Raises:
        InputError: a folder that holds no timm model, or a repository that cannot be had.
    """
    kind, colon, rest = name.partition(":")
    if not colon:
        import timm

        cfg = timm.models.get_pretrained_cfg(name)
        return Source(name, name.partition(".")[0], cfg.to_dict() if cfg is not None else {}, {})
    if kind == "local-dir":
        return _folder_source(name, Path(rest).expanduser())
    return _folder_source(name, _hub_folder(rest, with_weights), new_head=True)


def _folder_source(name: str, folder: Path, new_head: bool = False) -> Source:
    """Return what a folder's ``config.json`` says. Nothing that it names is run or loaded."""
    import timm

    path = folder / "config.json"
    if not path.is_file():
        there = "has no config.json" if folder.is_dir() else "is no folder"
        raise InputError(f"{name}: {str(folder)!r} {there}; it takes a folder that timm or kdtool saved a model to.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        cfg = dict(config.get("pretrained_cfg") or config)
        own = config.get("kdtool", {}).get("source")
        architecture = config["architecture"] if not own else None
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise InputError(f"{name}: {str(path)!r} does not describe a timm model ({type(error).__name__}).") from error
    if own:
        raise InputError(
            f"{name} holds weights of an architecture of your own, {own}. Code is never run because a weights folder "
            f"names it: give {own} as the model and {folder / 'model.safetensors'} as its weights."
        )
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(
            f"{name}: its architecture {architecture!r} is unknown to timm {timm.__version__}; install the package "
            "that registers it, or a newer timm."
        )
    cfg["num_classes"] = config.get("num_classes", cfg.get("num_classes"))
    model_args = dict(config.get("model_args") or {})
    model_args.pop("num_classes", None)
    check_args(model_args, f"{path}: model_args")
    return Source(f"local-dir:{folder}", architecture, cfg, model_args, folder, new_head)


def _hub_folder(repo: str, weights: bool) -> Path:
    """Return the local folder of a hub repository's files, downloaded where they are not in the cache.

    Raises:
        InputError: they are not in the cache and cannot be downloaded; found out within seconds.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    name, _, revision = repo.partition("@")
    config = cached_file(repo, "config.json")
    have_weights = not weights or any(cached_file(repo, file) for file in WEIGHT_FILES)
    if config is not None and have_weights:
        return config.parent
    reason = hub_unreachable(repo, "config.json")
    if reason is None:
        try:
            config = Path(hf_hub_download(name, "config.json", revision=revision or None))
            for file in WEIGHT_FILES if weights else ():
                try:
                    hf_hub_download(name, file, revision=revision or None)
                    break
                except EntryNotFoundError:
                    continue
            return config.parent
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    raise InputError(
        f"hf-hub:{repo} cannot be loaded: it is not in the local cache, and the hub cannot be reached ({reason}). "
        "Connect, or copy the repository here and use local-dir:FOLDER."
    )


def check_args(model_args: dict[str, Any], where: str) -> None:
    """Refuse constructor arguments that are not the architecture's own."""
    wrong = sorted(set(model_args) & NOT_ARGUMENTS)
    if wrong:
        raise InputError(f"{where} may not hold {', '.join(wrong)}; it is for the architecture's own arguments.")


def registering_package(architecture: str) -> str | None:
    """Return the module that registers an architecture with timm, None where timm does."""
    import timm

    module = str(timm.models.model_entrypoint(architecture).__module__)
    return None if module.partition(".")[0] == "timm" else module
