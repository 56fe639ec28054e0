"""How long texts are, and texts of a length that costs are measured at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.text.data.batches import Maker
from kdtool.tasks.text.models.tokens import Tokens


def usual_length(tokens: Tokens, split: HeldSplit) -> int:
    """Return the 95th percentile of a split's lengths in tokens, rounded up."""
    return max(1, int(np.ceil(np.percentile(token_counts(tokens, split), 95))))


def token_counts(tokens: Tokens, split: HeldSplit) -> np.ndarray:
    """Return the (N,) tokens of a split's texts as they stand; a view may have others."""
    return Maker(split, {tokens.digest: tokens}, None).lengths


def drawn(count: int, length: int, size: int) -> dict[str, Tensor]:
    """Return "ids", "mask" and "types" of texts of random tokens below ``size``, always the same, without padding."""
    ids = torch.randint(size, (count, length), generator=torch.Generator().manual_seed(0))
    return {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "types": torch.zeros_like(ids)}
