"""Opening what ``data.name`` names: its kind of source, what is held out, and all of it in tokens."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common import held_out
from kdtool.tasks.common.files import hub
from kdtool.tasks.common.files.faults import BadLine, Faults
from kdtool.tasks.common.files.folders import files_of, refuse_large, roles_of
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.common.pydocs import topics
from kdtool.tasks.common.splits import stratified
from kdtool.tasks.language.data import pydocs
from kdtool.tasks.language.data.chats import Chat, Sample, Writer
from kdtool.tasks.language.data.dataset import LanguageData, Names, Split, digest_of
from kdtool.tasks.language.data.encode import Tokenized, tokenize
from kdtool.tasks.language.data.read import KINDS, Part, first_sample, read, read_table
from kdtool.tasks.language.data.twin import Twin, met_by_all, twin_of
from kdtool.tasks.language.models.tokens import Tokens
from kdtool.tasks.language.options import Data

PYDOCS_TEST = 0.2
"""The share of the built-in data set that is its test split."""

NAMES = {"train": "training", "test": "test", "val": "validation"}
"""What messages call the splits."""


@dataclass
class Raw:
    """Samples as they were read, and what is held out of them.

    Attributes:
        samples: N of them.
        splits: by "train", "val" (or None) and "test"; each with N' rows.
        faults: the lines left out.
        columns: digest of the split's names.
        own_test: there is a split to test on; else one is drawn here.
    """

    samples: list[Sample]
    splits: dict[str, HeldSplit | None]
    faults: Faults = field(default_factory=Faults)
    own_test: bool = True

    def texts(self) -> Iterator[str]:
        """Yield all texts that are trained on."""
        train = self.splits["train"]
        assert train is not None
        for row in train.rows.tolist():
            sample = self.samples[row]
            if isinstance(sample, Chat):
                yield from (content for _, content in sample.turns)
            else:
                yield sample


def read_data(cfg: Data) -> Raw:
    """Read what ``data.name`` names and hold out what the recipe asks for.

    Raises:
        InputError: it is not there, is empty, has more bad lines than ``data.max_bad`` allows, or needs a package that
            is missing.
    """
    raw = _open(cfg)
    train = raw.splits["train"]
    assert train is not None
    raw.own_test = raw.splits.keys() != {"train"}
    train, val, test = held_out.roles(train, raw.splits.get("val"), raw.splits.get("test"), cfg)
    raw.splits = {"train": train, "val": val, "test": test}
    named = {NAMES[role]: split for role, split in raw.splits.items()}
    held_out.refuse_unfit(named, cfg, "texts")
    return raw


def in_tokens(
    raw: Raw, cfg: Data, tokens: Tokens, classes: int, others: Mapping[str, Tokens] | None = None
) -> LanguageData:
    """Return what was read in tokens.

    Args:
        raw: what was read.
        cfg: the recipe's section ``data``.
        tokens: the student's tokenizer.
        classes: V, the tokens that all networks know.
        others: by their models, the tokenizers of teachers that have other tokens; None: nobody looked for such.

    Raises:
        InputError: a split has nothing to learn, the tokenizer has no chat template, samples cannot be written by it,
            or hold tokens that not all networks know.
    """
    if cfg.template == "chat" and tokens.template is None:
        raise InputError("data.template=chat: the tokenizer has no chat template. Use auto, or plain.")
    writer = Writer(tokens, cfg.template, cfg.loss_on)
    found, cuts = tokenize(raw.samples, writer, cfg.max_length, placed=bool(others))
    faults = raw.faults
    faults.note(
        "template", len(raw.samples) - len(cuts.refused),
        [BadLine(cfg.name, number + 1, why, "sample") for number, why in cuts.refused],
    )  # fmt: skip
    if len(found) and int(found.ids.max()) >= classes:
        many = int((found.ids >= classes).sum())
        raise InputError(
            f"--data {cfg.name}: {many:,} of its tokens, such as {tokens.by_number[int(found.ids.max())]!r}, are not "
            f"in the {classes:,} that all networks know. Use networks of one tokenizer."
        )
    # Pieces of one text are on one side.
    splits = {role: Split(found, np.flatnonzero(np.isin(found.sources, split.rows))) if split is not None else None
              for role, split in raw.splits.items()}  # fmt: skip
    if splits["val"] is not None and raw.splits["val"] is raw.splits["test"]:
        splits["val"] = splits["test"]  # data.watch_test
    for role, part in splits.items():
        if part is not None and not len(part):
            raise InputError(
                f"--data {cfg.name}: in the {NAMES[role]} split there is nothing to learn: no answer of an assistant, "
                "or no text of two tokens."
            )
    train, test = splits["train"], splits["test"]
    assert train is not None
    assert test is not None
    twins = None if others is None else {name: _twin(name, each, found, raw, cfg) for name, each in others.items()}
    more = [[each.tokens.digest, each.size, each.tokens.longest] for each in (twins or {}).values()]
    decides = cfg.max_length, cfg.template, cfg.loss_on, tokens.digest, classes, *more
    sources = [raw_split.rows.tolist() if raw_split is not None else None for raw_split in raw.splits.values()]
    digest = held_out.fingerprint(digest_of(raw.samples, decides, sources), cfg)
    notes = [*cuts.notes(cfg.max_length), *_notes(raw), *_counted(train, test), *_met(train, twins or {}, cfg)]
    return LanguageData(
        cfg.name, Names(tokens, classes), train, splits["val"], test, digest, writer, notes=notes, raw=raw.samples,
        bad=faults, own_test=raw.own_test, twins=twins,
    )  # fmt: skip


def _open(cfg: Data) -> Raw:
    name = cfg.name
    if name == "pydocs":
        return _pydocs()
    if name.startswith(hub.PREFIX) and not Path(name).exists():
        tables = hub.open_tables(cfg)
        return _joined({role: [read_table(each) for each in some] for role, some in tables.items()}, cfg)
    path = Path(name).expanduser()
    if path.is_dir():
        by_split = files_of(path, cfg, KINDS)
        wanted = {role: by_split[split] for role, split in roles_of(by_split, cfg, "file").items()}
        refuse_large([file for files in wanted.values() for file in files], cfg)
        return _joined({role: [read(file) for file in files] for role, files in wanted.items()}, cfg)
    if path.is_file():
        for key, usual in (("train_split", "train"), ("test_split", "auto")):
            if getattr(cfg, key) != usual:
                raise InputError(f"--data {name} is one file, of which no split has a name: leave out data.{key}.")
        refuse_large([path], cfg)
        return _joined({"train": [read(path)]}, cfg)
    near = "Did you mean 'pydocs'? " if difflib.get_close_matches(name, ["pydocs"]) else ""
    raise InputError(
        f"--data {name}: there is no such file or folder. {near}Valid: pydocs, a file ({', '.join(KINDS)}), a folder "
        f"of them, or {hub.PREFIX}NAME for a data set of Hugging Face."
    )


def an_example(cfg: Data) -> Sample | None:
    """Return a training sample, to tell what the data are of; None: they are not there, or only on the hub."""
    if cfg.name == "pydocs":
        return _pydocs().samples[0]
    path = Path(cfg.name).expanduser()
    try:
        if not path.is_dir():
            return first_sample(path) if path.is_file() else None
        by_split = files_of(path, cfg, KINDS)
        return first_sample(by_split[roles_of(by_split, cfg, "file")["train"]][0])
    except InputError:  # since the run, they became something else
        return None


def _joined(parts: dict[str, list[Part]], cfg: Data) -> Raw:
    raw = Raw([], {}, Faults(cfg.max_bad))
    for role, some in parts.items():
        samples = [sample for part in some for sample in part.samples]
        raw.faults.note(NAMES[role], len(samples), [bad for part in some for bad in part.bad])
        if not samples:
            bad = next((str(bad) for part in some for bad in part.bad), None)
            raise InputError(f"{some[0].origin} holds no sample.{f' {bad}' if bad else ''}")
        raw.splits[role] = _rows(len(raw.samples), len(samples))
        raw.samples += samples
    return raw


def _pydocs() -> Raw:
    samples: list[Sample] = list(pydocs.passages(topics()))
    whole = _rows(0, len(samples))
    keep, held = stratified(whole.labels, whole.rows, PYDOCS_TEST, 0, "pydocs")
    return Raw(samples, {"train": whole.take(keep), "test": whole.take(held)})


def _rows(first: int, count: int) -> HeldSplit:
    """Return a split of so many rows, all of one class."""
    return HeldSplit(None, np.zeros(count, dtype=np.int64), np.arange(first, first + count, dtype=np.int64))


def _notes(raw: Raw) -> Iterator[str]:
    def keys(role: str) -> list[Sample]:
        split = raw.splits[role]
        return [] if split is None else [raw.samples[row] for row in split.rows.tolist()]

    trained = set(keys("train"))
    for role in ("test", "val") if raw.splits["val"] is not raw.splits["test"] else ("test",):
        some = keys(role)
        both = sum(each in trained for each in some)
        if both:
            verb = "stands" if both == 1 else "stand"
            yield f"{both:,} of {len(some):,} {NAMES[role]} samples {verb} in the training set, too"


def _counted(train: Split, test: Split) -> Sequence[str]:
    learnt, tokens = int(train.offsets[-1]), int(train.lengths.sum())
    return [f"{learnt:,} of {tokens:,} training tokens are learnt; {int(test.offsets[-1]):,} are tested on"]


def _twin(name: str, tokens: Tokens, found: Tokenized, raw: Raw, cfg: Data) -> Twin:
    """Return the samples in the tokens of a teacher that has others.

    Raises:
        InputError: it has no chat template where one is asked for, or no word vector for some of them.
    """
    if cfg.template == "chat" and tokens.template is None:
        raise InputError(
            f"data.template=chat: the tokenizer of teacher {name} has no chat template. Use auto, or plain."
        )
    twin = twin_of(found, raw.samples, Writer(tokens, cfg.template, cfg.loss_on), tokens.size, tokens.longest)
    if int(twin.samples.ids.max(initial=0)) >= twin.size:
        raise InputError(f"--data {cfg.name}: teacher {name} has no word vector for some of its tokens there.")
    return twin


def _met(train: Split, twins: Mapping[str, Twin], cfg: Data) -> Iterator[str]:
    """Yield sentences on the rows that teachers of other tokens speak of.

    Raises:
        InputError: there are none.
    """
    learnt = int(train.offsets[-1])
    for name, twin in twins.items():
        count = int(met_by_all(train.samples, train.rows, {name: twin}).sum())
        if not count:
            raise InputError(
                f"--data {cfg.name}: teacher {name} has other tokens than the student, and none begins where one does "
                "that is learnt: there is nothing to compare."
            )
        refused = f"; {twin.refused:,} samples its chat template refuses" if twin.refused else ""
        yield (
            f"teacher {name} has other tokens: {count:,} of the {learnt:,} training tokens that are learnt begin where "
            f"one of its own does, and are compared; the other {learnt - count:,} are learnt from text alone{refused}"
        )
    if len(twins) > 1:
        count = int(met_by_all(train.samples, train.rows, twins).sum())
        yield f"{count:,} of them begin where one of every teacher's does: these are compared"
