"""How a batch's samples lie in the sequences that a network reads: one a sequence, or several that see nothing of
one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Sequences to read, and where in them the rows of a loss are.

    Attributes:
        ids: (S, L) int64.
        rows: (R,) int64 places in the S·L, sample by sample.
        more: further arguments of the network.
    """

    ids: Tensor
    rows: Tensor
    more: dict[str, Any] = field(default_factory=dict)

    def of(self, features_SLD: Tensor) -> Tensor:
        """Return the (R, D) features at the rows."""
        return features_SLD.flatten(0, 1).index_select(0, self.rows)


def apart(ids_BL: Tensor, next_BL: Tensor) -> Layout:
    """Return a sequence a sample. Padding lies behind, where what is real does not look in a causal network."""
    return Layout(ids_BL, next_BL.flatten().nonzero().squeeze(1))


def packed(ids_BL: Tensor, next_BL: Tensor, lengths: Sequence[int], most: int, dtype: torch.dtype) -> Layout:
    """Return as few sequences as samples fit into.

    Each sample's positions begin at 0, and a mask keeps it to itself.

    Args:
        ids_BL: int64.
        next_BL: bool, where the next token is learnt.
        lengths: B of them.
        most: tokens of a sequence; more where one sample alone has more.
        dtype: of the network, and so of the mask.
    """
    places = first_fit(lengths, max(most, *lengths))
    count = max(sequence for sequence, _ in places) + 1
    ends = [first + length for (_, first), length in zip(places, lengths, strict=True)]
    device, longest = ids_BL.device, max(ends)
    at = torch.cat([torch.arange(length) + sequence * longest + first
                    for (sequence, first), length in zip(places, lengths, strict=True)]).to(device)  # fmt: skip
    of_sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    within = torch.cat([torch.arange(length) for length in lengths]).to(device)

    def spread(values: Tensor, empty: int) -> Tensor:
        found = torch.full((count * longest,), empty, dtype=torch.int64, device=device)
        return found.index_copy(0, at, values).view(count, longest)

    ids_SL = spread(ids_BL[of_sample, within], 0)
    owner_SL, positions_SL = spread(of_sample, -1), spread(within, 0)
    seen_SLL = (owner_SL[:, :, None] == owner_SL[:, None, :]).tril()
    mask_S1LL = torch.zeros(seen_SLL.shape, dtype=dtype, device=device).masked_fill(~seen_SLL, torch.finfo(dtype).min)
    more = {"attention_mask": mask_S1LL[:, None], "position_ids": positions_SL}
    return Layout(ids_SL, at[next_BL[of_sample, within]], more)


def first_fit(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return for each sample (sequence, first place in it): the longest first, each where there is room first."""
    used: list[int] = []
    found = [(0, 0)] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = (sequence for sequence, taken in enumerate(used) if taken + lengths[number] <= most)
        sequence = next(fits, len(used))
        if sequence == len(used):
            used.append(0)
        found[number] = sequence, used[sequence]
        used[sequence] += lengths[number]
    return found
