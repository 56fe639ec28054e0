"""Batches of a stream of chats and texts: which samples form one follows from the step alone.

See ``kdtool.tasks.common.streams.lanes``. Rows of a loss are numbered without knowing what comes before: a sample's
number times ``data.max_length``, and the place of the token in the sample. Samples are not sorted by length, and each
process pads (or packs, ``data.packing``) those of its own part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from kdtool.engine.job import Loaded
from kdtool.engine.staging import Staging
from kdtool.errors import InputError
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.streams.lanes import Lanes, Plan, Request
from kdtool.tasks.common.streams.windows import Held, Windows
from kdtool.tasks.common.workers import At, Workers
from kdtool.tasks.language.data.batches import beside, padded
from kdtool.tasks.language.data.chats import Writer
from kdtool.tasks.language.data.dataset import LanguageData
from kdtool.tasks.language.data.encode import Cuts
from kdtool.tasks.language.data.passing import Encoder, Other, Ready, chosen
from kdtool.tasks.language.data.shards import Passing
from kdtool.tasks.language.data.twin import Twin
from kdtool.tasks.language.options import Data
from kdtool.tasks.task import Reading


@dataclass
class Answer:
    """A lane's part of a batch.

    Attributes:
        samples: in tokens.
        numbers: theirs in the stream.
        read: how many were put into tokens for it.
        cuts: what these lost.
        bad: those that cannot be written.
    """

    samples: list[Ready] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    read: int = 0
    cuts: Cuts = field(default_factory=Cuts)
    bad: list[BadLine] = field(default_factory=list)


class Reader(Dataset[Any]):
    """Answers requests, in a worker.

    Args:
        windows: where its lanes stand.
        encode: puts samples into tokens.
        at: what it notes its samples in.
    """

    def __init__(self, windows: Windows[Passing], encode: Encoder, at: At):
        self.windows, self.encode, self.at = windows, encode, at

    def __getitem__(self, request: Request) -> Answer | str:
        """Return the samples of a request; for one of which nothing is learnt the next in its window stands in."""
        if get_worker_info() is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
        answer = Answer()
        try:
            asked = list(self.windows.of(request))
            self._make(asked, answer)
            for held, wanted in asked:
                self.at.note(self.windows.first(held) + wanted)
                inside = self._usable(held, wanted, answer)
                sample = held.samples[inside]
                pieces: list[Ready] = held.made[sample.line]
                answer.samples.append(chosen(pieces, sample.piece, sample.pieces, held.window.turn))
                answer.numbers.append(self.windows.first(held) + inside)
        except InputError as error:
            return str(error)
        return answer

    def _make(self, asked: Sequence[tuple[Held[Passing], int]], answer: Answer) -> None:
        """Put samples into tokens, unless their windows hold them in tokens."""
        new = {(held.window, (sample := held.samples[place]).line): (held, sample) for held, place in asked}
        todo = [(held, sample) for held, sample in new.values() if sample.line not in held.made]
        if not todo:
            return
        made, cuts = self.encode([sample.sample for _, sample in todo])
        for (held, sample), pieces in zip(todo, made, strict=True):
            held.made[sample.line] = pieces
        answer.read += len(todo)
        answer.cuts.add(cuts)
        for number, why in cuts.refused:
            held, sample = todo[number]
            answer.bad.append(BadLine(self.windows.stream.shards.names[held.window.shard], sample.line, why, "sample"))

    def _usable(self, held: Held[Passing], wanted: int, answer: Answer) -> int:
        for inside in chain(range(wanted, held.window.size), range(wanted)):
            self._make([(held, inside)], answer)
            if held.made[held.samples[inside].line]:
                return inside
        name = self.windows.stream.shards.names[held.window.shard]
        raise InputError(
            f"there is nothing to learn of line {held.samples[wanted].line} of {name}, nor of any of the "
            f"{held.window.size} samples around it. Mend or remove them."
        )


class StreamBatches:
    """A stream's batches.

    Args:
        data: whose training set is streamed.
        cfg: the recipe's section ``data``.
        reading: how it is read.
        twins: by key, for teachers of other tokens: what tells these.

    Raises:
        InputError: a batch cannot be divided among the processes.
    """

    def __init__(self, data: LanguageData, cfg: Data, reading: Reading, twins: Mapping[str, Twin]):
        assert data.stream is not None
        assert reading.steps is not None
        self.data, self.steps, self.max_length = data, reading.steps, cfg.max_length
        self.plan = Plan(data.stream, reading.batch_size, reading.part, cfg.workers, reading.steps, cfg.views)
        self.placement = self.plan.placement
        self.send = Staging(reading.device)
        models = {id(twin): model for model, twin in (data.twins or {}).items()}
        others = {
            key: Other(Writer(twin.tokens, cfg.template, cfg.loss_on), twin.size, models[id(twin)])
            for key, twin in twins.items()
        }
        encode = Encoder(data.writer, cfg.max_length, len(data.class_names), data.name, others)
        at, windows = At(self.plan.workers), Windows(Lanes(data.stream, self.plan.lanes, reading.seed), data.stream)
        self.workers: Workers[Request] = Workers(
            Reader(windows, encode, at), self.plan.workers, False, at, lambda sample: f"sample {sample} of the stream"
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield the batches of an epoch from batch ``start`` on; those before are not read."""
        numbers = self.plan.numbers(epoch, start)
        answers = self.workers.read(self.plan.requests(numbers))
        for step in numbers:
            parts: list[Answer] = [next(answers) for _ in self.plan.own]
            self._note(parts)
            yield self._loaded(parts, self.plan.view(step))

    def _note(self, parts: Sequence[Answer]) -> None:
        assert self.data.stream is not None
        for part in parts:
            self.data.passed.samples += part.read
            self.data.passed.cuts.add(part.cuts)
            self.data.bad.add("passing", len(self.data.stream), part.bad)

    def _loaded(self, parts: Sequence[Answer], view: int) -> Loaded:
        samples = [sample for part in parts for sample in part.samples]
        numbers = [number for part in parts for number in part.numbers]
        own = [sample.own for sample in samples]
        inputs: dict[str, Any] = padded(own)
        for key in samples[0].beside:
            theirs, ours = zip(*(sample.beside[key] for sample in samples), strict=True)
            inputs[key] = beside(list(theirs), list(ours))
        labels = _joined([ids[learnt] for ids, learnt in own])
        places = [number * self.max_length + np.flatnonzero(learnt) for number, (_, learnt) in
                  zip(numbers, own, strict=True)]  # fmt: skip
        rows, counts = _joined(places), list(map(len, places))
        spoken = [sample.taught for sample in samples if sample.taught is not None]
        more = [torch.from_numpy(np.concatenate(spoken))] if spoken else []
        inputs, labels, index, *taught = self.send((inputs, labels, rows, *more))
        return Loaded(inputs, labels, index, view, counts, rows, *taught)


def _joined(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))
