"""``kdtool.generate``: a teacher's answers to questions, as data that students learn from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdtool.errors import InputError, RunError
from kdtool.events import Reporter
from kdtool.generation.asking import SEVERAL_T, Asking, Job
from kdtool.generation.budget import Budget, price_of
from kdtool.generation.card import write_card
from kdtool.generation.collect import Collector
from kdtool.generation.filters import Filters, Wanted
from kdtool.generation.patience import Patience
from kdtool.generation.request import Sampling
from kdtool.generation.rows import QUESTION, read_rows
from kdtool.generation.style import TASKS, style_of
from kdtool.generation.taught import ASKED, SHOWN, held, list_failures, samples_of, write_set
from kdtool.generation.teachers import open_teacher

OWN = {"model", "messages", "stream", "n"}
"""Of a request's body: what no further value may change."""


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
        teacher: ``URL#MODEL`` of an OpenAI-compatible server, ``vllm:MODEL``, or a network as ``task`` takes it.
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
    for name in OWN & set(params or {}):
        raise InputError(f"--param {name}: what is asked, of whom and how it is sent is not for --param to change.")
    reporter = reporter or Reporter()
    job = Job(
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
    with ExitStack() as stack:
        place = Path(out)
        if dry_run and not (place / ASKED).is_dir():  # nothing is there, and nothing is to be
            place = Path(stack.enter_context(TemporaryDirectory()))
        store = stack.enter_context(held(place))
        spent = store.prompt_tokens + store.completion_tokens
        budget = Budget(max_requests, max_tokens_total, spent, len(store))
        asking = Asking(job, opened, Collector(opened, store, budget, patience, reporter), store)
        if dry_run:
            return asking.estimate(asking.first(given.rows, shown))
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
