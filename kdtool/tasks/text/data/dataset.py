"""What every source of texts opens, and what is trained and tested on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common.files.faults import FILE, Faults
from kdtool.tasks.common.files.labels import in_order, none_known
from kdtool.tasks.common.files.tables import shown
from kdtool.tasks.common.held import HeldData, HeldSplit
from kdtool.tasks.text.data.read import Part
from kdtool.tasks.text.data.texts import Texts


@dataclass
class Source:
    """What one kind of source finds: splits as they are stored, before any is held out.

    Attributes:
        class_names: K names in the order of the labels.
        train, test, val: all with the same ``samples``, a ``Texts`` of all of the source's rows.
        fingerprint: digest of all texts and labels, and of the columns that they are from.
        faults: the lines left out.
    """

    class_names: list[str]
    train: HeldSplit
    test: HeldSplit | None
    val: HeldSplit | None
    fingerprint: str
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True)
class TextData(HeldData):
    """Texts ready to be trained and tested on; the ``samples`` of its splits are one ``Texts``.

    Attributes:
        notes: sentences for the user, such as on texts that are trained on and tested on.
        bad: the lines left out.
        made: what was made of the texts so far and is wanted by several networks, such as a vocabulary.
    """

    notes: list[str] = field(default_factory=list)
    bad: Faults = field(default_factory=Faults)
    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def texts(self) -> Texts:
        """All of the source's texts by row."""
        found: Texts = self.train.samples
        return found

    def list_faults(self, folder: Path) -> None:
        """List in a run's folder the lines that were left out, and those that will be."""
        self.bad.write_to(folder / FILE)

    def faults(self) -> str | None:
        """Return a sentence on the lines that were left out, None without any."""
        return self.bad.sentence()


NAMES = {"train": "training", "test": "test", "val": "validation"}
"""What messages call the splits."""


def assemble(parts: Mapping[str, Sequence[Part]], max_bad: float) -> Source:
    """Return the source that tables make up.

    Args:
        parts: the tables of "train" and, where they are there, "test" and "val".
        max_bad: the share of a split's lines that may be bad.

    Raises:
        InputError: too many are, a split has no sample, some have pairs of texts and others have none, there is one
            class only, or a class is missing in training.
    """
    faults, first = Faults(max_bad), parts["train"][0]
    for role, some in parts.items():
        faults.note(NAMES[role], sum(map(len, some)), [bad for part in some for bad in part.bad])
        if not any(map(len, some)):
            bad = next((str(bad) for part in some for bad in part.bad), None)
            raise InputError(
                f"{some[0].origin}: there is nothing but a header."
                if bad is None
                else f"{some[0].origin} holds nothing but bad lines. {bad}"
            )
        for part in some:
            if len(part.columns.text) != len(first.columns.text):
                raise InputError(
                    f"{first.origin} was read from {_columns(first)} and {part.origin} from {_columns(part)}: single "
                    "texts and pairs do not mix. data.text names the columns."
                )
    names = _class_names(parts["train"])
    texts, splits = Texts([], None if first.texts.second is None else []), {}
    for role, some in parts.items():
        labels = np.concatenate([_numbers(part, names) for part in some])
        start = len(texts)
        for part in some:
            texts = texts.join(part.texts)
        splits[role] = (labels, np.arange(start, len(texts), dtype=np.int64))
    held = {role: HeldSplit(texts, labels, rows) for role, (labels, rows) in splits.items()}
    columns = {role: [[*part.columns.text, part.columns.label] for part in some] for role, some in parts.items()}
    digest = fingerprint(names, texts, held, columns)
    return Source(names, held["train"], held.get("test"), held.get("val"), digest, faults)


def _columns(part: Part) -> str:
    return " and ".join(shown(name) for name in part.columns.text)


def _class_names(parts: Sequence[Part]) -> list[str]:
    """Return the classes of the training split: those declared, or those found."""
    found = {label for part in parts for label in part.labels if label is not None}
    if not found:
        raise none_known(parts[0].origin, parts[0].columns.label or "", sum(map(len, parts)), "texts")
    if len(found) < 2:
        raise InputError(
            f"{parts[0].origin}: the training texts have one class only, {shown(found.pop())}; two or more are needed."
        )
    declared = parts[0].declared
    if declared is not None and all(part.declared == declared for part in parts) and found <= set(declared):
        return declared
    return in_order(found)


def _numbers(part: Part, names: Sequence[str]) -> np.ndarray:
    """Return the (N,) int64 labels of a table."""
    number: dict[str | None, int] = {None: -1} | {name: n for n, name in enumerate(names)}
    try:
        return np.array([number[label] for label in part.labels], dtype=np.int64)
    except KeyError:
        row = next(row for row, label in enumerate(part.labels) if label not in number)
    few = ", ".join(shown(name) for name in names[:10])
    raise InputError(
        f"{part.origin}, {part.unit} {part.lines[row]}: label {shown(part.labels[row])} does not occur in training; "
        f"there it is {few}{', ...' if len(names) > 10 else ''}."
    )


def digest_of(texts: Texts, start: int = 0) -> str:
    """Return the sha256 of the texts from row ``start`` on, in order."""
    digest = hashlib.sha256()
    for some in (texts.first, texts.second or []):
        for text in some[start:]:
            data = text.encode()
            digest.update(b"%d:" % len(data) + data)
        digest.update(b";")
    return digest.hexdigest()


def fingerprint(names: Sequence[str], texts: Texts, splits: Mapping[str, HeldSplit], columns: object) -> str:
    """Return the digest of a source: its texts, labels, splits and the columns that they are from; not its paths."""
    stored = {
        role: [split.digest(), hashlib.sha256(split.labels.tobytes()).hexdigest()]
        for role, split in sorted(splits.items())
    }
    content = [list(names), digest_of(texts), stored, columns]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
