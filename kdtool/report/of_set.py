"""A generated set's chapter of the page: its card, what filters left, lengths, and samples beside their questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdtool.report import charts
from kdtool.report.sections import Chapter, Chart, Table

SHOWN = 12
"""Samples, spread over the set."""
LONGEST = 600
"""Characters of a text that are shown."""


def chapter(found: Mapping[str, Any]) -> Chapter:
    """Return the chapter on a generated set.

    Args:
        found: what ``gather`` found: "folder", "card", "samples" (some) and "words" (of the answers, by kind).
    """
    card = found["card"]
    style, requests, tokens, cost = card["style"], card["requests"], card["tokens"], card["cost"]
    facts = [
        ("samples", f"{card['samples']['count']:,}"),
        ("answers", f"{requests['answered']:,} of {requests['wanted']:,}"),
        ("tokens written", f"{tokens['completion']:,}"),
    ]
    facts += [("cost", f"{cost['sum']:.2f}")] if cost else []
    return Chapter(
        found["folder"],
        sentences=[
            f"Answers of {card['teacher']['name']} to {card['data']['rows']:,} questions of {card['data']['name']}, in "
            f"the style {style['name']}.",
            *([f"{style['about']} {style['paper']}."] if style["about"] else []),
            *([f"Not all were asked: {card['stopped']}."] if card["stopped"] else []),
        ],
        notes=[card["licence"]],
        facts=facts,
        cards=[
            _filters(card["filters"]),
            Chart(
                "Lengths",
                charts.lengths(found["words"]),
                "Words of what students learn to write, by kind of sample.",
            ),
            _samples(found["samples"]),
        ],
    )


def _filters(filters: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [each["name"], each["about"], str(each["before"]), str(each["before"] - each["after"]), str(each["after"])]
        for each in filters
    ]
    titles = ["filter", "left out are answers that", "before", "left out", "after"]
    return Table("Filters", titles, rows, numbers=2)


def _samples(samples: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for sample in samples:
        *asked, answer = sample["messages"]
        rows.append([str(sample["id"]), str(sample["kind"]), _short(asked[-1]["content"]), _short(answer["content"])])
    return Table("Samples", ["id", "kind", "question", "answer"], rows, numbers=4, about="Spread over the set.")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
