"""Opening what ``data.name`` names: its kind of source, what is held out, and all of it in tokens."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common import held_out
from kdtool.tasks.common.files import hub
from kdtool.tasks.common.files.faults import BadLine, Faults
from kdtool.tasks.common.files.folders import files_of, refuse_large, roles_of
from kdtool.tasks.common.pydocs import topics
from kdtool.tasks.common.splits import stratified
from kdtool.tasks.language.data import pydocs
from kdtool.tasks.language.data.chats import Sample, Writer
from kdtool.tasks.language.data.dataset import LanguageData, Names, Split, digest_of
from kdtool.tasks.language.data.encode import Cuts, Tokenized, refuse_unknown, tokenize
from kdtool.tasks.language.data.passing import Passed
from kdtool.tasks.language.data.raw import NAMES, Raw, joined, rows_of
from kdtool.tasks.language.data.read import KINDS, first_sample, read, read_table
from kdtool.tasks.language.data.stream import read_stream, told_of
from kdtool.tasks.language.data.twin import Twin, met_by_all, twin_of
from kdtool.tasks.language.models.tokens import Tokens
from kdtool.tasks.language.options import Data

PYDOCS_TEST = 0.2
"""The share of the built-in data set that is its test split."""


def read_data(cfg: Data, stream: bool = False) -> Raw:
    """Read what ``data.name`` names and hold out what the recipe asks for.

    Args:
        cfg: the recipe's section ``data``.
        stream: do not hold the training set, but read it from its shards again and again.

    Raises:
        InputError: it is not there, is empty, has more bad lines than ``data.max_bad`` allows, or needs a package that
            is missing.
    """
    raw = read_stream(cfg) if stream else _open(cfg)
    train = raw.splits["train"]
    assert train is not None
    raw.own_test = raw.splits.keys() != {"train"}
    train, val, test = held_out.roles(train, raw.splits.get("val"), raw.splits.get("test"), cfg, in_memory=not stream)
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
    _note_refused(raw, cuts, cfg)
    refuse_unknown(found, tokens, classes, cfg.name)
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
    shards = [] if raw.stream is None else [raw.stream.shards.keys]
    decides = cfg.max_length, cfg.template, cfg.loss_on, tokens.digest, classes, *more, *shards
    sources = [raw_split.rows.tolist() if raw_split is not None else None for raw_split in raw.splits.values()]
    digest = held_out.fingerprint(digest_of(raw.samples, decides, sources), cfg)
    cut = list(cuts.notes(cfg.max_length))
    if raw.stream is not None:
        cut = [*told_of(raw.stream, len(raw.splits["train"] or ())), *(f"of what is held: {each}" for each in cut)]
    notes = [*cut, *_notes(raw), *_counted(train, test), *_met(train, twins or {}, cfg)]
    return LanguageData(
        cfg.name, Names(tokens, classes), train, splits["val"], test, digest, writer, notes=notes, raw=raw.samples,
        bad=raw.faults, own_test=raw.own_test, twins=twins, stream=raw.stream,
        passed=Passed(cfg.max_length),
    )  # fmt: skip


def _open(cfg: Data) -> Raw:
    name = cfg.name
    if name == "pydocs":
        return _pydocs()
    if name.startswith(hub.PREFIX) and not Path(name).exists():
        tables = hub.open_tables(cfg)
        return joined({role: [read_table(each) for each in some] for role, some in tables.items()}, cfg)
    path = Path(name).expanduser()
    if path.is_dir():
        by_split = files_of(path, cfg, KINDS)
        wanted = {role: by_split[split] for role, split in roles_of(by_split, cfg, "file").items()}
        refuse_large([file for files in wanted.values() for file in files], cfg)
        return joined({role: [read(file) for file in files] for role, files in wanted.items()}, cfg)
    if path.is_file():
        for key, usual in (("train_split", "train"), ("test_split", "auto")):
            if getattr(cfg, key) != usual:
                raise InputError(f"--data {name} is one file, of which no split has a name: leave out data.{key}.")
        refuse_large([path], cfg)
        return joined({"train": [read(path)]}, cfg)
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


def _pydocs() -> Raw:
    samples: list[Sample] = list(pydocs.passages(topics()))
    whole = rows_of(0, len(samples))
    keep, held = stratified(whole.labels, whole.rows, PYDOCS_TEST, 0, "pydocs")
    return Raw(samples, {"train": whole.take(keep), "test": whole.take(held)})


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


def _note_refused(raw: Raw, cuts: Cuts, cfg: Data) -> None:
    """Note samples that cannot be written.

    Raises:
        InputError: they are too many.
    """
    bad = [(number, BadLine(cfg.name, number + 1, why, "sample")) for number, why in cuts.refused]
    begins = 0
    if raw.stream is not None:
        # The beginning of a stream only tells whether there are too many: they are listed as they pass.
        begins = len(raw.splits["train"] or ())
        some = [each for number, each in bad if number < begins]
        Faults(cfg.max_bad).note("template", begins - len(some), some)
    others = [each for number, each in bad if number >= begins]
    raw.faults.note("template", len(raw.samples) - begins - len(others), others)


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
