"""A network's logits on splits of a data set: the one way in which everything here runs a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdtool.engine.evaluate import evaluate_in_fp32
from kdtool.tasks.common.classification import LogitsMeter
from kdtool.tasks.common.predictions_file import write_predictions
from kdtool.tasks.images.data.dataset import DataSet, Split
from kdtool.tasks.images.data.decode import with_channels
from kdtool.tasks.images.data.loader import Loader
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.evaluation.corruptions import Corruption
from kdtool.tasks.images.evaluation.preprocessing import Preprocessing
from kdtool.tasks.images.options import Data
from kdtool.tasks.task import Reading


class EvaluationViews(Views):
    """Evaluation's only view, resized as a network wants it, and perhaps made worse.

    Args:
        cfg: the recipe's section ``data``.
        how: the network's preprocessing.
        corruption: applied at the network's input size; None: none.
    """

    def __init__(self, cfg: Data, how: Preprocessing, corruption: Corruption | None = None):
        self.how, self.corruption = how, corruption
        cfg = dataclasses.replace(cfg, eval_crop=how.crop_pct)
        # Colour and size of the source decide random views only.
        super().__init__(
            cfg, how.size, how.mean, how.std, grey=False, native_size=(how.size, how.size), train=False,
            interpolation=how.interpolation,
        )  # fmt: skip

    @property
    def pixels_key(self) -> tuple[Any, ...]:
        return *super().pixels_key, self.how.crop_mode, self.corruption

    @cached_property
    def _evaluate(self) -> Any:
        from timm.data import create_transform

        how = self.how
        return create_transform(
            input_size=(self.channels, how.size, how.size),
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
        # Damage is done to colours: of grey to three equal ones, and not to how opaque they are.
        colours = pixels[:3].expand(3, -1, -1).permute(1, 2, 0).numpy()
        worse = with_channels(Image.fromarray(self.corruption(colours, row)), min(self.channels, 3))
        shaped = torch.from_numpy(np.array(worse)).view(*colours.shape[:2], -1).permute(2, 0, 1)
        return torch.cat([shaped, pixels[3:]]).contiguous()


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
        views = EvaluationViews(self.cfg, how, corruption)
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


def write(path: Path, examined: Examined, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write one row a sample: split, row, file, and what was made of it.

    Args:
        path: a parquet or .csv file; written aside and renamed.
        examined: the samples, in the order of the columns.
        columns: what was made of each, by name.
    """
    splits, rows, files = [], [], []
    for name, split in examined.splits.items():
        paths = getattr(split.images, "paths", None)
        splits += [name] * len(split)
        rows += split.rows.tolist()
        files += [str(paths[row]) if paths is not None else None for row in split.rows.tolist()]
    where = {"split": splits, "row": rows, "file": files}
    write_predictions(path, {**where, **columns})
