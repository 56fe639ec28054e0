"""The built-in data set: passages of the documentation inside Python itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

PASSAGE = 600
"""Characters of a passage, about: it ends with the paragraph that fills it."""


def passages(texts: Mapping[str, str]) -> list[str]:
    """Return passages of a few paragraphs each, topic by topic in alphabetical order.

    Topics contain one another: a paragraph stays where it comes first, so that no two passages share one.
    """
    known: set[str] = set()
    found: list[str] = []
    for topic in sorted(texts):
        paragraphs = [each for each in dict.fromkeys(_paragraphs(texts[topic])) if each not in known]
        known.update(paragraphs)
        found.extend(_passages(paragraphs))
    return found


def _paragraphs(text: str) -> list[str]:
    return [each.strip("\n") for each in re.split(r"\n\s*\n", text) if each.strip()]


def _passages(paragraphs: Iterable[str]) -> Iterator[str]:
    found: list[str] = []
    for paragraph in paragraphs:
        found.append(paragraph)
        if sum(map(len, found)) >= PASSAGE:
            yield "\n\n".join(found)
            found = []
    if found:
        yield "\n\n".join(found)
