"""Opening what ``data.name`` names: its kind of source, what is held out, and what the student is given of it."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common import held_out
from kdtool.tasks.common.files import hub
from kdtool.tasks.common.files.folders import files_of, refuse_large, roles_of
from kdtool.tasks.common.files.kinds import KINDS, open_table
from kdtool.tasks.common.files.tables import Table
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.common.overlaps import overlaps
from kdtool.tasks.common.pydocs import topics
from kdtool.tasks.common.splits import kept, stratified
from kdtool.tasks.text.data import pydocs
from kdtool.tasks.text.data.dataset import Source, TextData, assemble, digest_of, fingerprint
from kdtool.tasks.text.data.read import Part, read
from kdtool.tasks.text.data.texts import Texts
from kdtool.tasks.text.data.unlabelled import read_unlabelled, without
from kdtool.tasks.text.options import Data

PYDOCS_TEST = 0.2
"""The share of the built-in data set that is its test split."""


def open_data(cfg: Data) -> TextData:
    """Open what ``data.name`` names and hold out what the recipe asks for.

    Args:
        cfg: the recipe's section ``data``.

    Raises:
        InputError: it is not there, is empty, has one class only, has more bad lines than ``data.max_bad`` allows, or
            needs a package that is missing.
    """
    source = _open(cfg)
    train, val, test = held_out.roles(source.train, source.val, source.test, cfg)
    named = {"training": train, "test": test, "validation": val}
    held_out.refuse_unfit(named, cfg, "texts")
    digest = held_out.fingerprint(source.fingerprint, cfg)
    stored = {"train": source.train, "test": source.test, "val": source.val}
    data = TextData(
        cfg.name, source.class_names, train, val, test, digest, bad=source.faults,
        own_test=source.test is not None or source.val is not None,
        origins=held_out.origins(named, stored, {}, cfg),
    )  # fmt: skip
    data.notes.extend(_notes(data))
    return data


def _open(cfg: Data) -> Source:
    name = cfg.name
    if name == "pydocs":
        return _open_pydocs()
    if name.startswith(hub.PREFIX) and not Path(name).exists():
        return _read(hub.open_tables(cfg), cfg)
    path = Path(name).expanduser()
    if path.is_dir():
        by_split = files_of(path, cfg, KINDS)
        wanted = {role: by_split[split] for role, split in roles_of(by_split, cfg, "file").items()}
        refuse_large([file for files in wanted.values() for file in files], cfg)
        return _read({role: [open_table(file) for file in files] for role, files in wanted.items()}, cfg)
    if path.is_file():
        for key, usual in (("train_split", "train"), ("test_split", "auto")):
            if getattr(cfg, key) != usual:
                raise InputError(f"--data {name} is one file, of which no split has a name: leave out data.{key}.")
        refuse_large([path], cfg)
        return _read({"train": [open_table(path)]}, cfg)
    near = "Did you mean 'pydocs'? " if difflib.get_close_matches(name, ["pydocs"]) else ""
    raise InputError(
        f"--data {name}: there is no such file or folder. {near}Valid: pydocs, a file of texts ({', '.join(KINDS)}), a "
        f"folder of them, or {hub.PREFIX}NAME for a data set of Hugging Face."
    )


def _read(tables: dict[str, list[Table]], cfg: Data) -> Source:
    parts: dict[str, list[Part]] = {}
    for role, some in tables.items():
        # A test split is often published without its labels; the validation split then is tested on.
        bare = role == "test" and cfg.test_split == "auto" and "val" in tables
        parts[role] = [read(table, cfg.text, cfg.label, bare=bare) for table in some]
    return assemble(parts, cfg.max_bad)


def _open_pydocs() -> Source:
    found = pydocs.sentences_by_topic(topics())
    names = list(found)
    texts = Texts([sentence for some in found.values() for sentence in some])
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(some) for some in found.values()])
    whole = HeldSplit(texts, labels, np.arange(len(texts), dtype=np.int64))
    keep, held = stratified(whole.labels, whole.rows, PYDOCS_TEST, 0, "pydocs")
    train, test = whole.take(keep), whole.take(held)
    digest = fingerprint(names, texts, {"train": train, "test": test}, None)
    return Source(names, train, test, None, digest)


def _keys(split: HeldSplit | None) -> list[tuple[str, ...]]:
    return [] if split is None else [split.samples.key(row) for row in split.rows.tolist()]


def _notes(data: TextData) -> list[str]:
    notes = []
    bare = int((data.train.labels < 0).sum())
    if bare:
        notes.append(f"{bare:,} of {len(data.train):,} training texts have no label (it is empty or -1)")
    keys = {"training": _keys(data.train), "test": _keys(data.test), "validation": _keys(data.val)}
    if data.val is data.test:  # data.watch_test
        del keys["validation"]
    return [*notes, *overlaps(keys, "texts")]


def thin(data: TextData, cfg: Data) -> HeldSplit:
    """Return the student's training set: without excluded classes, so many of each class, and unlabelled extras.

    The rows of extras are past all of the source's own. Those that are measured on are left out, which is added to
    ``data.notes``.

    Raises:
        InputError: an unknown class, nothing left, or a file of unlabelled texts that is missing, empty or has more bad
            lines than ``data.max_bad`` allows.
    """
    train = data.train
    thinned = train.take(kept(train.labels, train.rows, data.class_names, cfg, "text"))
    if cfg.unlabelled is None:
        return thinned
    place = Path(cfg.unlabelled).expanduser()
    found, bad = read_unlabelled(place, data.texts.second is not None, cfg.text)
    data.bad.note("unlabelled", len(found), bad)
    more = without(found, {*_keys(data.val), *_keys(data.test)})
    if not len(more):
        raise InputError(f"data.unlabelled={place}: all of its texts stand in the validation or test set.")
    left = len(found) - len(more)
    note = f"{left:,} of {len(found):,} unlabelled texts stand in the validation or test set and were left out"
    if left and note not in data.notes:
        data.notes.append(note)
    own, count = len(data.texts), len(more)
    return dataclasses.replace(
        thinned,
        samples=data.texts.join(more),
        labels=np.concatenate([thinned.labels, np.full(count, -1, dtype=np.int64)]),
        rows=np.concatenate([thinned.rows, np.arange(own, own + count, dtype=np.int64)]),
        extra_fingerprint=digest_of(more),
    )
