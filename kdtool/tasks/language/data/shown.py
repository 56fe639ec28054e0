"""A training sample as networks read it, for people."""

from __future__ import annotations

from itertools import groupby

from kdtool.tasks.language.data.dataset import LanguageData


def shown(data: LanguageData) -> list[tuple[str, bool]]:
    """Return the first training sample in pieces, (text, whether its tokens are learnt) each, with special tokens."""
    ids, learnt = data.train.samples[int(data.train.rows[0])]
    runs = groupby(zip(ids.tolist(), learnt.tolist(), strict=True), key=lambda each: each[1])
    return [(data.tokens.library.decode([number for number, _ in run]), bool(mark)) for mark, run in runs]
