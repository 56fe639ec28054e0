"""What a data set holds, told before anything is trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNEVEN = 10
"""How many times a class's samples another has where that is worth a warning."""

LISTED = 12
"""Classes that a sentence lists one by one at most."""


@dataclass(frozen=True)
class Part:
    """A split.

    Attributes:
        origin: where it is from.
        counts: K samples by class.
        unlabelled: samples without a label.
        samples: all of them where one may have several classes, or none, so that counts do not add up; else None.
    """

    origin: str
    counts: Sequence[int]
    unlabelled: int = 0
    samples: int | None = None

    @property
    def total(self) -> int:
        """All of its samples."""
        return sum(self.counts) + self.unlabelled if self.samples is None else self.samples


@dataclass
class DataReport:
    """What a data set holds.

    Attributes:
        name: the data set's.
        unit: what its samples are called.
        class_names: K names in the order of the counts.
        parts: by "training", "validation" and "test", those that are there.
        notes: sentences worth knowing.
        warnings: sentences on what may spoil a result.
        unreadable: samples that cannot be read, each with the reason.
        seconds: what reading a sample takes, about; None: nothing worth counting.
    """

    name: str
    unit: str
    class_names: Sequence[str]
    parts: Mapping[str, Part]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        parts = {
            name: {"origin": part.origin, "samples": part.total, "unlabelled": part.unlabelled,
                   "counts": dict(zip(self.class_names, part.counts, strict=True))}
            for name, part in self.parts.items()
        }  # fmt: skip
        return {**dataclasses.asdict(self), "class_names": list(self.class_names), "parts": parts}

    def sentences(self) -> list[str]:
        """Return it in sentences, without the warnings."""
        parts = [f"{name} {part.total:,} ({part.origin})" for name, part in self.parts.items()]
        return [f"{self.unit} of {self.name}: {', '.join(parts)}", *self._classes(), *self.notes]

    def _classes(self) -> list[str]:
        counts = self.parts["training"].counts
        if not counts or not sum(counts):
            return []
        if len(counts) <= LISTED:
            each = [f"{name} {count:,}" for name, count in zip(self.class_names, counts, strict=True)]
            return [f"classes in training: {', '.join(each)}"]
        few, many = self._extremes()
        return [f"{len(counts):,} classes, in training of {few} to {many} {self.unit}"]

    def _extremes(self) -> tuple[str, str]:
        counts = self.parts["training"].counts
        few, many = int(np.argmin(counts)), int(np.argmax(counts))
        return f"{counts[few]:,} ({self.class_names[few]})", f"{counts[many]:,} ({self.class_names[many]})"

    def uneven(self) -> list[str]:
        """Return warnings on classes that are rare or missing."""
        found, train = [], self.parts["training"].counts
        if train and sum(train) and max(train) >= UNEVEN * max(min(train), 1):
            few, many = self._extremes()
            test = self.parts.get("test")
            shares = np.array(test.counts if test is not None else [0]) / max(test.total if test is not None else 1, 1)
            always = f": always answering the most frequent class is {100 * shares.max():.1f} % top-1 on test"
            tells = f"{always}; macro recall and macro F1 tell what top-1 hides"
            if self.parts["training"].samples is not None:
                tells = "; mAP and macro F1 count each class alike"
            found.append(f"the classes are uneven, in training of {few} to {many} {self.unit}{tells}")
        for name, part in self.parts.items():
            missing = [each for each, count in zip(self.class_names, part.counts, strict=True) if not count]
            if missing and sum(part.counts):
                rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                found.append(f"no {name} {self.unit} of {', '.join(missing[:5])}{rest}")
        return found


def report_of(data: Any, unit: str, origins: Mapping[str, str]) -> DataReport:
    """Return what a classification's data set holds, as far as labels tell.

    Args:
        data: a ``kdtool.tasks.task.Dataset``.
        unit: what its samples are called.
        origins: where each split is from, by the report's names.
    """
    classes = len(data.class_names)
    splits = {"training": data.train, "validation": data.val, "test": data.test}
    parts = {}
    for name, split in splits.items():
        if split is None or (name == "validation" and split is data.test):
            continue
        labels = split.labels
        known, sets = labels[labels >= 0], getattr(data, "sets", None)
        counts = np.bincount(known, minlength=classes) if sets is None else sets[known].sum(0).astype(np.int64)
        samples = len(labels) if sets is not None else None
        parts[name] = Part(origins.get(name, data.name), counts.tolist(), int((labels < 0).sum()), samples)
    report = DataReport(data.name, unit, data.class_names, parts)
    report.warnings += report.uneven()
    return report
