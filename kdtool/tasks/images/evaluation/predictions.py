"""A network's logits on splits of a data set: the one way in which everything here runs a network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdtool.engine.evaluate import evaluate_in_fp32
from kdtool.errors import InputError
from kdtool.tasks.common.classification import LogitsMeter
from kdtool.tasks.images.data.dataset import DataSet, Split
from kdtool.tasks.images.data.loader import Loader
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.evaluation.corruptions import Corruption
from kdtool.tasks.images.evaluation.preprocessing import Preprocessing
from kdtool.tasks.images.options import Data
from kdtool.tasks.task import Reading

SPLITS = ("test", "val", "train", "all")


class EvaluationViews(Views):
    """Evaluation's only view, resized as a network wants it, and perhaps made worse.

    Args:
        cfg: the recipe's section ``data``.
        how: the network's preprocessing.
        data: what the images are of.
        corruption: applied at the network's input size; None: none.
    """

    def __init__(self, cfg: Data, how: Preprocessing, data: DataSet, corruption: Corruption | None = None):
        self.how, self.corruption = how, corruption
        cfg = dataclasses.replace(cfg, eval_crop=how.crop_pct)
        super().__init__(cfg, how.size, how.mean, how.std, grey=data.grey, native_size=data.native_size, train=False)

    @property
    def pixels_key(self) -> tuple[Any, ...]:
        return *super().pixels_key, self.how.crop_mode, self.how.interpolation, self.corruption

    @cached_property
    def _evaluate(self) -> Any:
        from timm.data import create_transform

        how = self.how
        return create_transform(
            input_size=(3, how.size, how.size),
            is_training=False,
            interpolation=how.interpolation,
            crop_pct=how.crop_pct,
            crop_mode=how.crop_mode,
            use_prefetcher=True,
        )

    def host(self, image: Image.Image, row: int, view: int) -> Tensor:
        pixels = super().host(image, row, view)
        if self.corruption is None:
            return pixels
        worse = self.corruption(pixels.permute(1, 2, 0).numpy(), row)
        return torch.from_numpy(np.array(worse)).permute(2, 0, 1).contiguous()


@dataclass
class Examined:
    """Images that networks are measured on.

    Attributes:
        data: what they are of.
        cfg: the recipe's section ``data``.
        splits: by name, each with every sample labelled.
        batch_size: samples at once.
        device: where torch networks run.
        channels_last: memory layout of the inputs.
    """

    data: DataSet
    cfg: Data
    splits: dict[str, Split]
    batch_size: int
    device: torch.device
    channels_last: bool = True

    @property
    def labels(self) -> Tensor:
        """(N,) int64 classes of the data."""
        return torch.from_numpy(np.concatenate([split.labels for split in self.splits.values()]))

    def logits(self, network: nn.Module, how: Preprocessing, corruption: Corruption | None = None) -> Tensor:
        """Return (N, K) logits in fp32 (fp64 where they are), on the CPU."""
        each = [
            evaluate_in_fp32(network, batches, self.device, LogitsMeter()) for batches in self.batches(how, corruption)
        ]
        return torch.cat([found["logits"] for found in each])

    def batches(self, how: Preprocessing, corruption: Corruption | None = None) -> Iterator[Loader]:
        """Yield each split in batches, as a network of that preprocessing wants it."""
        views = EvaluationViews(self.cfg, how, self.data, corruption)
        reading = Reading(self.batch_size, 0, self.device, train=False, channels_last=self.channels_last)
        for split in self.splits.values():
            yield Loader(
                split,
                views,
                reading,
                num_classes=len(self.data.class_names),
                workers=self.cfg.workers,
                memory_budget_gb=self.cfg.memory_budget_gb if corruption is None else 0.0,
            )


def choose(data: DataSet, name: str) -> dict[str, Split]:
    """Return the splits that ``--split`` names; without the images that have no label.

    Raises:
        InputError: another name, a split that the data does not have, or no label in it.
    """
    if name not in SPLITS:
        raise InputError(f"--split {name} is none. Valid: {', '.join(SPLITS)}.")
    if data.stream is not None and name in ("train", "all"):
        raise InputError(f"--split {name}: the training set is streamed; measure on test or val.")
    every = {"train": data.train, "val": data.val, "test": data.test}
    wanted = {key: split for key, split in every.items() if split is not None and name in (key, "all")}
    if data.val is data.test and name == "all":
        del wanted["val"]
    if not wanted:
        raise InputError(f"--split {name}: {data.name} has none, since data.val_fraction is 0.")
    labelled = {key: split.take(np.flatnonzero(split.labels >= 0)) for key, split in wanted.items()}
    if not sum(map(len, labelled.values())):
        raise InputError(f"--split {name}: its images have no labels, so nothing can be measured on them.")
    return {key: split for key, split in labelled.items() if len(split)}


def class_map(model: Sequence[str] | None, data: DataSet, classes: int, name: str) -> tuple[Tensor, list[str]]:
    """Return (number in the logits by class of the data, names of the logits): classes are matched by name.

    Args:
        model: the network's class names; None: unknown, so that they must be as many as the data's.
        data: whose labels are to be mapped.
        classes: how many logits the network gives.
        name: of the network, for messages.

    Raises:
        InputError: the network lacks a class of the data.
    """
    if model is None:
        if classes != len(data.class_names):
            raise InputError(
                f"{name} has {classes} classes without names, the data {data.name} has {len(data.class_names)}: there "
                "is no telling which is which. Give data with those classes, or weights made for these."
            )
        return torch.arange(classes), list(data.class_names)
    number = {each: i for i, each in enumerate(model)}
    missing = [each for each in data.class_names if each not in number]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{name} does not know the class {', '.join(map(repr, missing[:3]))}{more} of {data.name}; it knows "
            f"{', '.join(map(repr, model[:8]))}{', …' if len(model) > 8 else ''}. Rename the data's classes, or leave "
            "those out."
        )
    return torch.tensor([number[each] for each in data.class_names]), list(model)


def write_predictions(path: Path, examined: Examined, logits: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    """Write one row a sample: split, row, file, label, predicted class, its confidence, and all logits.

    Args:
        path: a parquet file; written aside and renamed.
        examined: the samples, in the order of the logits.
        logits: (N, K).
        labels: (N,) int64 in the order of the logits' classes.
        names: of the K classes.
    """
    import pyarrow
    import pyarrow.parquet

    confidence, predicted = logits.double().softmax(1).max(1)
    splits, rows, files = [], [], []
    for name, split in examined.splits.items():
        paths = getattr(split.images, "paths", None)
        splits += [name] * len(split)
        rows += split.rows.tolist()
        files += [str(paths[row]) if paths is not None else None for row in split.rows.tolist()]
    table = pyarrow.table(
        {
            "split": splits,
            "row": rows,
            "file": pyarrow.array(files, pyarrow.string()),
            "label": labels.tolist(),
            "class": [names[i] for i in labels.tolist()],
            "predicted": predicted.tolist(),
            "predicted_class": [names[i] for i in predicted.tolist()],
            "confidence": confidence.tolist(),
            "correct": predicted.eq(labels).tolist(),
            "logits": logits.tolist(),
        }
    )
    aside = path.with_name(f".{path.name}.partial")
    try:
        pyarrow.parquet.write_table(table, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def check_predictions(path: Path) -> None:
    """Refuse a place that cannot be written, before anything is computed.

    Raises:
        InputError: its folder is not there, or pyarrow is missing.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError("--predictions needs pyarrow: pip install 'kdtool[parquet]'.") from error
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--predictions {path}: name a file in a folder that exists.")
