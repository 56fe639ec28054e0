"""How near a text is to a reference, and whether it comes to the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from kdtool.errors import InputError

GSM8K = "gsm8k"
"""What stands for the final answers of Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

Answer = Callable[[str], "str | None"]
"""Given a text, returns its final answer, None where it has none."""


def answer_of(asked: str) -> Answer:
    """Return what finds a final answer.

    Args:
        asked: ``GSM8K``, or a regular expression: the answer is the first group, or all, of its last match.

    Raises:
        InputError: it is no regular expression.
    """
    if asked == GSM8K:
        return _gsm8k
    try:
        pattern = re.compile(asked)
    except re.error as error:
        raise InputError(f"--answer {asked}: it is neither {GSM8K} nor a regular expression ({error}).") from error

    def found(text: str) -> str | None:
        matches = list(pattern.finditer(text))
        return (matches[-1].group(1 if pattern.groups else 0) or "").strip() if matches else None

    return found


def _gsm8k(text: str) -> str | None:
    """Return the number behind ``####``, or else the last one in the text, written one way."""
    _, mark, behind = text.rpartition("####")
    numbers = _NUMBER.findall(behind)
    if not numbers:
        return None
    number: str = numbers[0 if mark else -1].replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def rouge_l(written: str, reference: str) -> float:
    """Return ROUGE-L in [0, 1]: F1 of the longest common subsequence of words, in lower case.

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, equations 2 to 4 with beta = 1.
    """
    ours, theirs = (re.findall(r"\w+", text.lower()) for text in (written, reference))
    common = longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for i, against in enumerate(other, 1):
            before, row[i] = row[i], before + 1 if word == against else max(row[i], row[i - 1])
    return row[-1]
