"""Means over tokens, where rows are sentences: a batch is the mean of its sentences alone, however long they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdtool.layers import packed, token_shares, token_weights
from kdtool.method import Batch, Out
from kdtool_methods import ab, distilbert, fitnets, ft, minilm, tinybert, vid

LENGTHS, WIDTH = (5, 1, 3), 4

Loss = Callable[[Tensor, Tensor, Batch], Tensor]


def _packed(loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Loss:
    def of(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ours, theirs = (packed(each, batch.student.mask) for each in (student, teacher))
        return loss(ours, theirs, *token_shares(batch, [teacher]))

    return of


def _padded(loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Loss:
    return lambda student, teacher, batch: loss(student, teacher, token_weights(batch))


def _attention(student: Tensor, teacher: Tensor, weights: Tensor | None) -> Tensor:
    maps = [(each @ each.mT)[:, None].expand(-1, 2, -1, -1) for each in (student, teacher)]
    return tinybert.attention_loss(maps[0], maps[1], weights)


LOSSES: dict[str, Loss] = {
    "fitnets": _packed(lambda s, t, share: fitnets.hint_loss(s, t, "mean", share)),
    "fitnets sum": _packed(lambda s, t, share: fitnets.hint_loss(s, t, "sum", share)),
    "ft": _packed(lambda s, t, share: ft.factor_loss(s, t, 1, share)),
    "ft p=2": _packed(lambda s, t, share: ft.factor_loss(s, t, 2, share)),
    "vid": _packed(lambda s, t, share: vid.gaussian_nll(s, t, torch.full((WIDTH,), 0.7).double(), share)),
    "ab": _packed(lambda s, t, share: ab.boundary_loss(s, t, 1.0, share)),
    "distilbert": _padded(distilbert.cosine_loss),
    "tinybert hidden": _padded(tinybert.hidden_loss),
    "tinybert attention": _padded(_attention),
    "minilm": _padded(lambda s, t, weights: minilm.relation_loss(s, t, weights, 2)),
}


def _batch(mask_BL: Tensor | None, rows: int) -> Batch:
    out = Out(torch.zeros(rows, 2).double(), {}, mask_BL)
    none = torch.zeros(rows, dtype=torch.long)
    return Batch(labels=none, index=torch.arange(rows), student=out, teachers=[], task_loss=torch.sum)


@pytest.mark.parametrize("name", LOSSES)
def test_each_sentence_counts_alike(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=draw).double() for _ in range(2))
    mask_BL = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    whole = LOSSES[name](student, teacher, _batch(mask_BL, len(LENGTHS)))
    alone = [
        LOSSES[name](student[i : i + 1, :length], teacher[i : i + 1, :length], _batch(torch.ones(1, length).bool(), 1))
        for i, length in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(whole, sum(alone) / len(alone), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_where_rows_are_tokens_real_ones_count_alike(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=draw).double() for _ in range(2))
    mask_BL = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    batch = _batch(mask_BL, 7)  # so many tokens of the three sequences are learnt
    assert token_weights(batch) is mask_BL
    assert token_shares(batch, [teacher]) == [None]
    assert LOSSES[name](student, teacher, batch).isfinite()
