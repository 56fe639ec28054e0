"""``kdtool.generate``: a teacher's answers to questions, as data that students learn from."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kdtool import __version__
from kdtool.errors import InputError, RunError
from kdtool.events import Metric, Reporter
from kdtool.generation import waves
from kdtool.generation.budget import Budget, Price, price_of
from kdtool.generation.card import LICENCE, write_card
from kdtool.generation.collect import Collector, Tally
from kdtool.generation.filters import Candidate, Filters, Wanted
from kdtool.generation.patience import Patience
from kdtool.generation.request import Request, Sampling, Teacher
from kdtool.generation.rows import ANSWER, QUESTION, Row, Rows, read_rows
from kdtool.generation.store import Store
from kdtool.generation.style import TASKS, Style, style_of
from kdtool.generation.taught import SHOWN, held, list_failures, samples_of, write_set
from kdtool.generation.teachers import open_teacher

SEVERAL_T = 0.7
"""Temperature where several answers are wanted and none is given: Wang et al., 2023, and Ho et al., 2023."""


def generate(
    teacher: str,
    data: str | Path,
    out: str | Path,
    *,
    style: str = "answer",
    samples: int = 1,
    limit: int | None = None,
    count: int = 100,
    demonstrations: str | Path | None = None,
    temperature: float | None = None,
    top_p: float = 1.0,
    new_tokens: int = 512,
    seed: int = 0,
    logprobs: int = 0,
    params: Mapping[str, Any] | None = None,
    answer: str | None = None,
    keep_correct: bool = False,
    agree: float | None = None,
    words: tuple[int, int] | None = None,
    repetition: float | None = None,
    near_duplicates: float | None = None,
    not_in: str | Path | None = None,
    keep_cut: bool = False,
    keep_marks: bool = False,
    concurrency: int = 8,
    retries: int = 6,
    backoff_s: float = 1.0,
    timeout_s: float = 600.0,
    max_requests: int | None = None,
    max_tokens_total: int | None = None,
    price: str | None = None,
    key_env: str | None = None,
    any_model: bool = False,
    task: str | None = None,
    device: str | None = None,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Ask a teacher, keep each answer as it comes, and write those that pass the filters as a set to train on.

    Called again with the same ``out``, only what is missing is asked for; filters may change at no cost. Questions that
    hold marks of a chat template are left out, since they could pretend to be another turn (``keep_marks`` takes them).

    Args:
        teacher: ``URL#MODEL`` of an OpenAI-compatible server, or a network as ``task`` takes it.
        data: a file of questions; of tasks to begin with where the style makes up more.
        out: the set's folder.
        style: a built-in style, or a file of one.
        samples: answers to each question.
        limit: of the questions, the first so many.
        count: how many tasks are made up, where the style does.
        demonstrations: a file with answers, of which some are shown; default: ``data``.
        temperature: default: 0, and 0.7 for several answers.
        top_p, new_tokens, seed, logprobs, params: see ``kdtool.generation.request.Sampling``; ``params`` its ``extra``.
        answer, keep_correct, agree, words, repetition, near_duplicates, not_in, keep_cut: which answers are kept; see
            ``kdtool.generation.filters.Wanted``.
        concurrency: requests at a time, of a server.
        retries, backoff_s: see ``kdtool.generation.patience.Patience``.
        timeout_s: seconds until a request counts as failed.
        max_requests, max_tokens_total: what the whole set may take, earlier runs included.
        price: "IN,OUT", what a million tokens cost.
        key_env: environment variable that holds the server's key; default: KDTOOL_API_KEY, if there.
        any_model: take answers of a model that calls itself something else.
        task, device: of a network.
        dry_run: ask nothing; return what would be asked.
        reporter: hears how far it is.

    Returns:
        The card: "teacher", "style", "data", "sampling", "requests", "tokens", "cost", "filters", "samples", "stopped"
        and more, as ``card.json`` keeps it. Of a dry run "requests", "tokens", "cost" and "first", one's messages.

    Raises:
        InputError: something that was given is wrong, or the teacher cannot be asked.
        RunError: requests failed, or answers cannot be kept; those that were given are kept.
        Interrupted: by a signal; likewise.
    """
    if temperature is None:
        temperature = SEVERAL_T if samples > 1 else 0.0
    if samples > 1 and temperature == 0:
        raise InputError(f"--samples {samples} --temperature 0: all answers would be one. Raise the temperature.")
    reporter = reporter or Reporter()
    job = _Job(
        style_of(style),
        Sampling(temperature, top_p, new_tokens, seed, logprobs, dict(params or {})),
        samples,
        price_of(price) if price is not None else None,
        reporter,
    )
    wanted = Wanted(
        answer, keep_correct, agree, words, repetition, near_duplicates, Path(not_in) if not_in is not None else None,
        keep_cut,
    )  # fmt: skip
    filters = Filters(wanted, job.style)
    given = read_rows(Path(data), job.style.names - {TASKS, QUESTION}, keep_marks)
    given.rows = given.rows[:limit]
    shown = job.demonstrations(given.rows, Path(demonstrations) if demonstrations is not None else None)
    patience = Patience(retries, backoff_s, max(60.0, backoff_s))
    opened = open_teacher(
        teacher, key_env=key_env, concurrency=concurrency, timeout_s=timeout_s, any_model=any_model, task=task,
        device=device,
    )  # fmt: skip
    began = time.monotonic()
    with held(Path(out)) as store:
        spent = store.prompt_tokens + store.completion_tokens
        budget = Budget(max_requests, max_tokens_total, spent, len(store))
        asking = _Asking(job, opened, Collector(opened, store, budget, patience, reporter), store)
        if dry_run:
            return asking.estimate(asking.requests(given.rows, shown))
        rows = asking.make_up(given.rows, count) if job.style.waves is not None else given.rows
        requests = asking.requests(rows, shown)
        asking.say(asking.estimate(requests))
        asking.collect(list(requests), f"asking, {job.style.name}")
        list_failures(Path(out), asking.failed)
        kept = filters.apply(asking.candidates(requests))
        found = list(samples_of(kept, job.style, shown))
        card = asking.card(given, rows, Path(data), requests) | {
            "filters": filters.counts,
            "samples": write_set(Path(out), found, job.style),
            "seconds": round(time.monotonic() - began, 1),
        }
        write_card(Path(out), card, found[:SHOWN])
    if asking.failed:
        raise RunError(
            f"{len(asking.failed)} of {card['requests']['wanted']} requests failed, the last since the teacher "
            f"{asking.failed[-1][1]}. The others are kept and written to {out}; the same command asks again."
        )
    if asking.stopped:
        reporter.warn(f"{asking.stopped}: {card['requests']['answered']} of {card['requests']['wanted']} are answered")
    return card


@dataclass
class _Job:
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
class _Asking:
    """One run: whom is asked, and what became of it."""

    job: _Job
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

        # New tasks at temperature 0 would be the same ones in every wave.
        how = self.job.sampling
        if not how.temperature:
            how = Sampling(SEVERAL_T, how.top_p, how.new_tokens, how.seed, 0, how.extra)
        self.waves = list(waves.make_up(pool, count, self.teacher.model, how, ask))
        self.left_out = pool.left_out
        return waves.rows_of(pool, count)

    def candidates(self, requests: Mapping[Request, list[tuple[Row, int]]]) -> list[Candidate]:
        """Return the answers there are, row by row."""
        found = []
        for request, of in requests.items():
            answer = self.store.get(request.key) if request.key in self.store else None
            if answer is not None:
                values = self.job.style.read(answer.text)
                found += [Candidate(row, number, answer, values) for row, number in of]
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
