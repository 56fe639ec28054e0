"""A training view of a text: words hidden, left out or replaced, a function of seed, view and row alone.

Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", 2019, section 3.3: masking,
replacement and n-gram sampling. Their replacement keeps the part of speech, which needs a tagger; here a word comes
from the training set's words, drawn by their frequency.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kdtool.randomness import key_of
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.text.models.tokens import Text
from kdtool.tasks.text.options import Data

LONGEST = 5
"""Words of an n-gram at most, as in the paper."""

HIDDEN = None
"""What stands for a word that is hidden."""

Words = list[str | None]


@dataclass(frozen=True)
class Lexicon:
    """The training set's words, each as often as it is drawn.

    Attributes:
        words: in order.
        up_to: their cumulated shares, the last one 1.
    """

    words: Sequence[str]
    up_to: np.ndarray

    def draw(self, share: float) -> str:
        """Return the word that a number in [0, 1) falls upon."""
        return self.words[min(int(np.searchsorted(self.up_to, share, side="right")), len(self.words) - 1)]


def lexicon(texts: Iterable[str]) -> Lexicon:
    """Return the words of texts, by their frequency."""
    counts = sorted(Counter(word for text in texts for word in text.split()).items())
    total = np.cumsum([count for _, count in counts], dtype=np.float64)
    return Lexicon([word for word, _ in counts], total / total[-1])


def views_of(cfg: Data, train: HeldSplit) -> Views | None:
    """Return how texts are changed to train on; None: they stay as they are."""
    if not any((cfg.mask, cfg.drop, cfg.replace, cfg.ngram)):
        return None
    texts = (train.samples[row] for row in train.rows)
    return Views(cfg, lexicon(part for text in texts for part in ([text] if isinstance(text, str) else text)))


def strong_views(cfg: Data, train: HeldSplit) -> Views | None:
    """Return how texts are changed in their strong view, whose draws are its own."""
    seed, part = key_of("strong view", cfg.view_seed) & 0x7FFFFFFF, cfg.strong / 3
    return views_of(dataclasses.replace(cfg, mask=part, drop=part, replace=part, view_seed=seed), train)


@dataclass(frozen=True)
class Views:
    """How a training text becomes a view of it.

    Attributes:
        cfg: the recipe's section ``data``.
        lexicon: words that replace others.
    """

    cfg: Data
    lexicon: Lexicon

    def of(self, text: Text, row: int, view: int) -> list[Words]:
        """Return the words of a text, or of each of a pair, ``HIDDEN`` where one is hidden; never none at all."""
        parts = [text] if isinstance(text, str) else list(text)
        draw = np.random.Generator(np.random.Philox(key_of("text view", self.cfg.view_seed, row, view)))
        return [self._changed(part.split(), draw) for part in parts]

    def _changed(self, words: list[str], draw: np.random.Generator) -> Words:
        cfg = self.cfg
        chance, where = draw.random(len(words)), draw.random(len(words))
        keeps, length, start = draw.random(), draw.random(), draw.random()
        changed: Words = []
        for word, p, place in zip(words, chance, where, strict=True):
            if p < cfg.mask:
                changed.append(HIDDEN)
            elif p < cfg.mask + cfg.replace:
                changed.append(self.lexicon.draw(place))
            elif p < cfg.mask + cfg.replace + cfg.drop:
                continue
            else:
                changed.append(word)
        if keeps < cfg.ngram and changed:
            n = 1 + int(length * min(LONGEST, len(changed)))
            first = int(start * (len(changed) - n + 1))
            changed = changed[first : first + n]
        return changed or list(words[:1])
