"""One run of ``kdtool.generate``: requests from rows and a style, tasks made up, and what became of all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kdtool import __version__
from kdtool.errors import InputError
from kdtool.events import Metric, Reporter
from kdtool.generation import waves
from kdtool.generation.budget import Price
from kdtool.generation.card import LICENCE
from kdtool.generation.collect import Collector, Tally
from kdtool.generation.filters import Candidate
from kdtool.generation.request import Request, Sampling, Teacher
from kdtool.generation.rows import ANSWER, QUESTION, Row, Rows, read_rows
from kdtool.generation.store import Store
from kdtool.generation.style import Style

SEVERAL_T = 0.7
"""Temperature where several answers are wanted and none is given: Wang et al., 2023, and Ho et al., 2023."""


@dataclass
class Job:
    """What is asked for: in which style, how sampled, how many answers each, and at which price."""

    style: Style
    sampling: Sampling
    samples: int
    price: Price | None
    reporter: Reporter

    def demonstrations(self, rows: Sequence[Row], path: Path | None) -> dict[str, list[Mapping[str, str]]]:
        """Return what is shown with each row, by its id: drawn by the seed, without the row's own question."""
        count = self.style.draw
        if not count:
            if path is not None:
                raise InputError(f"--demonstrations {path}: the style {self.style.name!r} draws none.")
            return {}
        pool = [row for row in (read_rows(path).rows if path is not None else rows) if row.answer is not None]
        found: dict[str, list[Mapping[str, str]]] = {}
        for row in rows:
            draw = random.Random(f"{self.sampling.seed} {row.id}")
            some = [each for each in draw.sample(pool, min(count + 1, len(pool))) if each.question != row.question]
            if len(some) < count:
                where = path if path is not None else "the data"
                raise InputError(
                    f"--style {self.style.name} shows {count} questions with known answers, of which {where} has "
                    f"{len(pool)}. Name a file with more by --demonstrations."
                )
            found[row.id] = [{QUESTION: each.question, ANSWER: each.answer or ""} for each in some[:count]]
        return found


@dataclass
class Asking:
    """One run: whom is asked, and what became of it."""

    job: Job
    teacher: Teacher
    collector: Collector
    store: Store

    def __post_init__(self) -> None:
        self.failed: list[tuple[Request, str]] = []
        self.stopped: str | None = None
        self.tallies: list[Tally] = []
        self.waves: list[dict[str, Any]] = []
        self.left_out: Mapping[str, int] = {}
        self.job.reporter.about("answers", Metric())

    def requests(self, rows: Sequence[Row], shown: Mapping[str, Any]) -> dict[Request, list[tuple[Row, int]]]:
        """Return what is asked, and of which rows each request is one of the answers."""
        found: dict[str, Request] = {}
        of: dict[str, list[tuple[Row, int]]] = {}
        for row in rows:
            messages = self.job.style.ask(row, shown.get(row.id, ()))
            for number in range(self.job.samples):
                request = Request(self.teacher.model, messages, self.job.sampling, number)
                found.setdefault(request.key, request)
                of.setdefault(request.key, []).append((row, number))
        return {request: of[key] for key, request in found.items()}

    def first(self, rows: Sequence[Row], shown: Mapping[str, Any]) -> Mapping[Request, Any]:
        """Return what is asked first: all, or the first wave."""
        if self.job.style.waves is None:
            return self.requests(rows, shown)
        self.job.reporter.note(
            "what the first wave takes; more follow, and then each task that was made up is answered"
        )
        pool = waves.Pool(self.job.style.waves, [row.question for row in rows], self.job.sampling.seed)
        return dict.fromkeys(waves.requests_of(pool, 0, self.teacher.model, self._inventive))

    @property
    def _inventive(self) -> Sampling:
        """How tasks are made up: at temperature 0 they would be the same ones in every wave."""
        how = self.job.sampling
        return how if how.temperature else replace(how, temperature=SEVERAL_T, logprobs=0)

    def collect(self, requests: list[Request], name: str) -> Tally:
        tally = self.collector.collect(requests, name)
        self.tallies.append(tally)
        self.failed += tally.failed
        self.stopped = self.stopped or tally.stopped
        return tally

    def make_up(self, seeds: Sequence[Row], count: int) -> list[Row]:
        assert self.job.style.waves is not None
        pool = waves.Pool(self.job.style.waves, [row.question for row in seeds], self.job.sampling.seed)

        def ask(requests: list[Request], name: str) -> list[str | None] | None:
            tally = self.collect(requests, name)
            if tally.stopped or tally.failed:
                return None
            answers = [self.store.get(request.key) for request in requests]
            return [answer.text if answer is not None else None for answer in answers]

        self.waves = list(waves.make_up(pool, count, self.teacher.model, self._inventive, ask))
        self.left_out = pool.left_out
        return waves.rows_of(pool, count)

    def candidates(self, requests: Mapping[Request, list[tuple[Row, int]]]) -> list[Candidate]:
        """Return the answers there are, row by row."""
        found = []
        for request, of in requests.items():
            answer = self.store.get(request.key) if request.key in self.store else None
            if answer is not None:
                values = self.job.style.read(answer.text, answer.reasoning)
                found += [Candidate(row, number, answer, values, request.key) for row, number in of]
        return found

    # --- what is told -------------------------------------------------------------------------------------------------

    def estimate(self, requests: Mapping[Request, Any]) -> dict[str, Any]:
        """Return what the requests that are missing may take."""
        missing = [request for request in requests if request.key not in self.store]
        read, written = sum(each.estimate() for each in missing), len(missing) * self.job.sampling.new_tokens
        first = next(iter(requests), None)
        return {
            "requests": {"wanted": len(requests), "there": len(requests) - len(missing), "missing": len(missing)},
            "tokens": {"prompt": read, "completion": written},
            "cost": {"at_most": self.job.price.of(read, written)} if self.job.price else None,
            "first": [list(turn) for turn in first.messages] if first is not None else [],
        }

    def say(self, estimate: Mapping[str, Any]) -> None:
        requests, tokens, cost = estimate["requests"], estimate["tokens"], estimate["cost"]
        text = f"{requests['wanted']:,} answers are wanted, {requests['there']:,} are kept"
        if requests["missing"]:
            text += f"; the rest read about {tokens['prompt']:,} tokens and write at most {tokens['completion']:,}"
            text += f", for at most {cost['at_most']:.4f}" if cost else ""
        self.job.reporter.note(text)
        if self.store.damaged:
            self.job.reporter.warn(f"{self.store.damaged} lines of {self.store.path} are damaged, and asked for again")

    def card(self, given: Rows, rows: Sequence[Row], path: Path, requests: Mapping[Request, Any]) -> dict[str, Any]:
        """Return all of the card but what filters left."""
        job, store = self.job, self.store
        keys = [request.key for request in requests if request.key in store]
        answers = [answer for answer in map(store.get, keys) if answer is not None]
        read, written = store.prompt_tokens, store.completion_tokens
        price = job.price
        return {
            "format": 1,
            "kdtool": __version__,
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "teacher": {
                "name": self.teacher.name,
                "model": self.teacher.model,
                "reported": dict(Counter(answer.model for answer in answers)),
            },
            "style": {"name": job.style.name, "about": job.style.about, "paper": job.style.paper},
            "data": {"name": str(path), "rows": len(rows), "marked": len(given.marked)},
            "samples_each": job.samples,
            "sampling": asdict(job.sampling),
            "waves": self.waves,
            "tasks_left_out": dict(self.left_out),
            "requests": {
                "wanted": len(requests),
                "answered": len(answers),
                "refused": len(keys) - len(answers),
                "failed": len(self.failed),
                "retries": self.collector.budget.retries,
                "sent": self.collector.budget.sent,
            },
            "tokens": {
                "prompt": read, "completion": written, "counted": all(answer.counted for answer in answers),
            },
            "cost": {"price": [price.prompt, price.completion], "sum": price.of(read, written)} if price else None,
            "stopped": self.stopped,
            "licence": LICENCE,
        }  # fmt: skip
