"""Data sets of Hugging Face ``datasets``: ``hf/NAME``, or ``hf/NAME:CONFIGURATION`` where it has several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.recipe.schema import Data
from kdtool.tasks.common.files.arrow import HubSplit
from kdtool.tasks.common.files.folders import roles_of
from kdtool.tasks.common.files.tables import Table

PREFIX = "hf/"
"""What the names of such data sets begin with."""


def open_tables(cfg: Data) -> dict[str, list[Table]]:
    """Return the splits to read, by "train", "test" and "val".

    ``data.root`` is a folder that holds the data set by its name, as it was cloned or saved there; one without it is
    where ``datasets`` keeps what it fetches.

    Raises:
        InputError: ``datasets`` is missing or cannot open it, or there is no training split.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"--data {cfg.name} needs a package that is missing: pip install 'kdtool[hfds]'") from error
    if not cfg.name.removeprefix(PREFIX).partition(":")[0].strip("./ "):
        raise InputError(
            f"--data {cfg.name}: after {PREFIX} comes the name of a data set, such as {PREFIX}stanfordnlp/sst2."
        )
    try:
        splits = _load(datasets, cfg)
        # Split names are the keys; a single split was saved without one.
        found = dict(splits.items()) if hasattr(splits, "items") else {cfg.train_split: splits}
    except Exception as error:  # each kind of data set fails in its own way
        where = f" in data.root={cfg.root}" if cfg.root else ""
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise InputError(
            f"--data {cfg.name}: datasets cannot open it{where} ({type(error).__name__}: {text}). Check the name, "
            f"data.root and the network; {PREFIX}NAME:CONFIGURATION names one of several configurations."
        ) from error
    wanted = roles_of(found, cfg, "split")
    return {role: [HubSplit(found[name], f"{cfg.name}, split {name}")] for role, name in wanted.items()}


def _load(datasets: Any, cfg: Data) -> Any:
    name, _, configuration = cfg.name.removeprefix(PREFIX).partition(":")
    if cfg.root is None:
        return datasets.load_dataset(name, configuration or None)
    root = Path(cfg.root).expanduser()
    place = root / name
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        return datasets.load_from_disk(str(place))
    if place.is_dir():
        return datasets.load_dataset(str(place), configuration or None)
    return datasets.load_dataset(name, configuration or None, cache_dir=str(root))
