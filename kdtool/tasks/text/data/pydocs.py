"""The built-in data set: sentences of the documentation inside Python itself, and the topic that each is from.

Python versions differ in these texts, and so in the sentences; the fingerprint tells runs on them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

CLASSES = 10
"""How many topics, those with the most sentences."""

WORDS = range(4, 61)
"""How many words a sentence may have."""

_END = re.compile(r"(?<=[.!?])[\"\u201d\u2019')]*\s+(?=[\"\u201c\u2018'(]*[A-Z])")
_CODE = re.compile(
    r"::=|>>>| = |[-=~^*#]{3,}|^\s*(?:def|class|import|from|for|if|while|return|try|with)\b.*[:)]$", re.M
)
_VERSION = re.compile(r"^(?:New|Added|Changed|Deprecated) (?:in|since) version [\w. ]+[:.]?\s*")
_PROSE = re.compile(r"^[\"\u201c\u2018'(]*[A-Z].*[.!?][\"\u201d\u2019')]*$")


def sentences_by_topic(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the sentences, sorted, of the topics that have the most; sorted by topic.

    Topics contain one another. The one with the most sentences that no other has yet is taken next, so that no sentence
    is of two classes.
    """
    left = {topic: set(sentences(text)) for topic, text in sorted(texts.items())}
    chosen: dict[str, list[str]] = {}
    while left and len(chosen) < CLASSES:
        topic = max(left, key=lambda name: len(left[name]))  # of equals the first by name
        taken = left.pop(topic)
        chosen[topic] = sorted(taken)
        for rest in left.values():
            rest -= taken
    return dict(sorted(chosen.items()))


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a topic; headings, code and grammar are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.strip("\n").split("\n")
        if len(lines) > 1 and _indent(lines[1]) > _indent(lines[0]) and not lines[0].lstrip().startswith(("*", "-")):
            del lines[0]  # a term, and its explanation below
        if _CODE.search("\n".join(lines)):
            continue
        joined = re.sub(r"(?<=\w)- (?=\w)", "-", " ".join(" ".join(lines).split()))  # lines break at hyphens
        for sentence in _END.split(re.sub(r"^(?:[*-]|\d+\.) ", "", joined)):
            sentence = _VERSION.sub("", sentence)
            if _PROSE.match(sentence) and len(sentence.split()) in WORDS:
                yield sentence


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
