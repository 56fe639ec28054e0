"""Batches of texts: token numbers for every network that takes them, as long as the longest text of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.text.data.views import HIDDEN, Views, Words
from kdtool.tasks.text.models.tokens import Encoded, Text, Tokens

OVERLAP = "overlap:"
"""Before a tokenizer's key: (B, L, N) float, 1 where a token of that tokenizer shares a character with one's own."""

LONG = 1 << 20
"""More characters than a word has: word w's c-th character is number w·LONG + c, whatever stands before it."""


@dataclass(frozen=True)
class Seen:
    """A text as it is shown: its words, and of a pair those of the second text."""

    parts: list[Words]

    def written(self, mask: str | None) -> tuple[Text, list[np.ndarray]]:
        """Return the text with a mask token for each hidden word, and each character's number by part.

        A hidden word's characters all have its first number, as long as the mask token may be.
        """
        texts, numbers = [], []
        for words in self.parts:
            shown = [(mask or "") if word is HIDDEN else word for word in words]
            texts.append(" ".join(shown))
            each: list[int] = []
            for place, (word, seen) in enumerate(zip(words, shown, strict=True)):
                first = place * LONG
                each += [first] * len(seen) if word is HIDDEN else range(first, first + len(seen))
                each.append(-1)  # the space behind it
            numbers.append(np.array(each, dtype=np.int64))
        return (texts[0] if len(texts) == 1 else (texts[0], texts[1])), numbers


class Maker:
    """Makes a batch's inputs, see ``kdtool.tasks.text.models.built.Inputs``.

    Args:
        split: what the positions are of.
        tokens: by key, the tokenizers of the networks that take the batch; the student's first.
        views: how texts are changed to train on; None: they stay as they are.
    """

    def __init__(self, split: HeldSplit, tokens: Mapping[str, Tokens], views: Views | None):
        self.split, self.tokens, self.views = split, dict(tokens), views
        self.kept: dict[str, list[Encoded]] = {}
        if not self._changes:
            texts = [split.samples[row] for row in split.rows]
            self.kept = {key: each.encode(texts) for key, each in self.tokens.items()}

    @property
    def _changes(self) -> bool:
        # Two tokenizers are brought together by words, which are looked up as they come.
        return self.views is not None or len(self.tokens) > 1

    @property
    def lengths(self) -> np.ndarray:
        """(N,) a measure of how long each text is."""
        if self.kept:
            return np.array([len(each.ids) for each in next(iter(self.kept.values()))])
        return np.array([_length(self.split.samples[row]) for row in self.split.rows])

    def __call__(self, positions: Tensor, view: int) -> dict[str, dict[str, Tensor]]:
        """Return the inputs of the texts at these positions."""
        if self.kept:
            return {key: _padded([each[i] for i in positions.tolist()], self.tokens[key])
                    for key, each in self.kept.items()}  # fmt: skip
        shown = [self._shown(int(row), view) for row in self.split.rows[positions.numpy()]]
        found: dict[str, dict[str, Tensor]] = {}
        places: dict[str, list[np.ndarray]] = {}
        for key, tokens in self.tokens.items():
            written = [each.written(tokens.mask) for each in shown]
            encoded = tokens.encode([text for text, _ in written])
            found[key] = _padded(encoded, tokens)
            places[key] = [_places(each, numbers) for each, (_, numbers) in zip(encoded, written, strict=True)]
        first, *others = self.tokens
        for other in others:
            shape = found[first]["ids"].shape[1], found[other]["ids"].shape[1]
            pairs = zip(places[first], places[other], strict=True)
            found[other][OVERLAP + first] = torch.stack([_overlap(ours, theirs, shape) for ours, theirs in pairs])
        return found

    def _shown(self, row: int, view: int) -> Seen:
        text = self.split.samples[row]
        if self.views is not None:
            return Seen(self.views.of(text, row, view))
        return Seen([list(part.split()) for part in ([text] if isinstance(text, str) else text)])


def side_by_side(each: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    """Return the inputs of several networks as those of one batch, whose texts have a token of the first one's
    tokenizer for each of another's.

    Args:
        each: by the key of one tokenizer; all of one shape.
    """
    first = next(iter(each[0]))
    found: dict[str, dict[str, Tensor]] = {}
    for inputs in each:
        for key, own in inputs.items():
            found.setdefault(key, dict(own))
    for key, own in found.items():
        if key != first:
            count, length = own["ids"].shape
            own[OVERLAP + first] = torch.eye(length, device=own["ids"].device).expand(count, length, length)
    return found


def _length(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _padded(encoded: Sequence[Encoded], tokens: Tokens) -> dict[str, Tensor]:
    longest = max(len(each.ids) for each in encoded)
    ids = np.full((len(encoded), longest), tokens.pad, dtype=np.int64)
    types, mask = np.zeros_like(ids), np.zeros(ids.shape, dtype=bool)
    for row, each in enumerate(encoded):
        ids[row, : len(each.ids)], types[row, : len(each.ids)] = each.ids, each.types
        mask[row, : len(each.ids)] = True
    return {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask), "types": torch.from_numpy(types)}


def _places(encoded: Encoded, numbers: list[np.ndarray]) -> np.ndarray:
    """Return (L, 2): for each token the numbers of its first and last character, apart for the second of a pair.

    Special tokens stand before the text or behind it: those in front at -2, others past all characters, in order.
    """
    found = np.empty((len(encoded.ids), 2), dtype=np.int64)
    behind = 0
    for i, ((first, last), kind) in enumerate(zip(encoded.spans, encoded.types, strict=True)):
        part = min(kind, len(numbers) - 1)
        if first == last:
            behind += i > 0
            found[i] = -2 if i == 0 else (1 << 60) + behind
            continue
        inside = numbers[part][first:last]
        inside = inside[inside >= 0]
        found[i] = (inside.min() + (part << 50), inside.max() + (part << 50)) if len(inside) else -3
    return found


def _overlap(ours: np.ndarray, theirs: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Return (L, N) float, 1 where two tokens share a character."""
    found = np.zeros(shape, dtype=np.float32)
    meets = (ours[:, None, 0] <= theirs[None, :, 1]) & (theirs[None, :, 0] <= ours[:, None, 1])
    found[: len(ours), : len(theirs)] = meets
    return torch.from_numpy(found)
