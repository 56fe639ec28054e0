"""How long samples are, and texts of a length that costs are measured at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdtool.tasks.language.data.dataset import Split


def usual_length(split: Split) -> int:
    """Return the 95th percentile of a split's lengths in tokens, rounded up."""
    return max(1, int(np.ceil(np.percentile(split.lengths, 95))))


def drawn(count: int, length: int, size: int) -> Tensor:
    """Return (count, length) random tokens below ``size``, always the same."""
    return torch.randint(size, (count, length), generator=torch.Generator().manual_seed(0))
