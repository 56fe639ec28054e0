"""Texts that networks are measured on: the one way in which everything here runs a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.engine.evaluate import evaluate_in_fp32
from kdtool.tasks.common.classification import LogitsMeter
from kdtool.tasks.common.held import HeldBatches, HeldSplit
from kdtool.tasks.common.predictions_file import columns_of, write_predictions
from kdtool.tasks.task import Reading
from kdtool.tasks.text.data.batches import Maker
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.evaluation.corruptions import Corruption
from kdtool.tasks.text.models.built import Built
from kdtool.tasks.text.options import Data


@dataclass
class Examined:
    """Texts that networks are measured on.

    Attributes:
        data: what they are of.
        cfg: the recipe's section ``data``.
        splits: by name, each with every sample labelled.
        batch_size: samples at once.
        device: where the networks run.
    """

    data: TextData
    cfg: Data
    splits: dict[str, HeldSplit]
    batch_size: int
    device: torch.device

    @property
    def labels(self) -> Tensor:
        """(N,) int64 classes of the data."""
        return torch.from_numpy(np.concatenate([split.labels for split in self.splits.values()]))

    def logits(self, built: Built, corruption: Corruption | None = None) -> Tensor:
        """Return (N, K) logits in fp32, on the CPU."""
        network = built.tapped()
        each = [
            evaluate_in_fp32(network, batches, self.device, LogitsMeter())
            for batches in self.batches(built, corruption)
        ]
        return torch.cat([found["logits"] for found in each])

    def batches(self, built: Built, corruption: Corruption | None = None) -> Iterator[HeldBatches]:
        """Yield each split in batches, as the network's tokenizer makes them."""
        reading = Reading(self.batch_size, 0, self.device, train=False)
        for split in self.splits.values():
            shown = split if corruption is None else _worse(split, corruption)
            yield HeldBatches(shown, reading, Maker(shown, {built.tokens.digest: built.tokens}, None), self.cfg)


def _worse(split: HeldSplit, corruption: Corruption) -> HeldSplit:
    samples = {row: corruption(split.samples[row], row) for row in split.rows.tolist()}
    return dataclasses.replace(split, samples=samples)


def write(path: Path, examined: Examined, logits: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    """Write one row a sample: split, row, text, label, predicted class, its confidence, and all logits.

    Args:
        path: a parquet or .csv file; written aside and renamed.
        examined: the samples, in the order of the logits.
        logits: (N, K).
        labels: (N,) int64 in the order of the logits' classes.
        names: of the K classes.
    """
    columns: dict[str, list[Any]] = {"split": [], "row": [], "text": []}
    pairs = examined.data.texts.second is not None
    columns |= {"text2": []} if pairs else {}
    for name, split in examined.splits.items():
        rows = split.rows.tolist()
        columns["split"] += [name] * len(rows)
        columns["row"] += rows
        columns["text"] += [split.samples.first[row] for row in rows]
        if pairs:
            columns["text2"] += [split.samples.second[row] for row in rows]
    write_predictions(path, {**columns, **columns_of(logits, labels, names)})
