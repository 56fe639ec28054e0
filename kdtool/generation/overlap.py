"""How much of a text is in itself, in another, or in a test split: runs of words compared."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

RUN = 13
"""Words in a row that a text may not share with a test split: Brown et al., "Language Models are Few-Shot Learners",
2020, appendix C."""
FEWEST = 5
"""Words of a test item that is shorter than a run, at least, for it to be looked for whole."""

Words = tuple[str, ...]


def words(text: str) -> list[str]:
    """Return a text's words, without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def runs(found: Sequence[str], length: int) -> Iterator[Words]:
    """Yield each run of so many words."""
    return (tuple(found[i : i + length]) for i in range(len(found) - length + 1))


def repetition(text: str, length: int = 4) -> float:
    """Return the share of a text's runs of words that were there before in it, in [0, 1]; 0 of a short text."""
    every = list(runs(words(text), length))
    return 1 - len(set(every)) / len(every) if every else 0.0


class Held:
    """Texts that no sample may share a run of words with.

    Args:
        texts: a test split's.
    """

    def __init__(self, texts: Iterable[str]):
        self._runs: dict[int, set[Words]] = defaultdict(set)
        for text in texts:
            own = words(text)
            length = min(len(own), RUN)
            if length >= FEWEST:
                self._runs[length].update(runs(own, length))

    def shares(self, text: str) -> bool:
        """Tell whether a text shares ``RUN`` words in a row, or holds all of a shorter item."""
        own = words(text)
        return any(run in known for length, known in self._runs.items() for run in runs(own, length))


def near_duplicates(texts: Sequence[str], threshold: float, length: int = 3) -> list[bool]:
    """Return which texts are near to an earlier one that is none itself.

    Near are those whose sets of runs of words have a Jaccard index of at least ``threshold``. Two such sets share one
    of the first runs, in an order by rarity, of each: so only these are looked up (Bayardo, Ma and Srikant, "Scaling Up
    All Pairs Similarity Search", WWW 2007).

    Args:
        texts: in order.
        threshold: in (0, 1].
        length: words of a run.
    """
    sets = [_set(text, length) for text in texts]
    counts = Counter(run for each in sets for run in each)
    places: dict[Words, list[int]] = defaultdict(list)
    found = []
    for number, own in enumerate(sets):
        rare = sorted(own, key=lambda run: (counts[run], run))[: len(own) - math.ceil(threshold * len(own)) + 1]
        others = {other for run in rare for other in places.get(run, ())}
        near = any(len(own & sets[other]) >= threshold * len(own | sets[other]) for other in others)
        found.append(near)
        if not near:
            for run in rare:
                places[run].append(number)
    return found


def _set(text: str, length: int) -> set[Words]:
    own = words(text)
    return set(runs(own, length)) or {tuple(own)}
