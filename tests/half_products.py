"""Products in half precision as a card computes them: in fp32, rounded once.

The simulated device has them so on every processor. By themselves CPUs differ: where there is AVX512, torch takes
oneDNN's kernels for bf16, some of which read past the end of a row and count on zeros that meet what lies there. A NaN
there becomes one of the result (oneDNN's issue 5717 and its pull request 5723); elsewhere torch has loops of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

PRODUCTS = {"convolution", "convolution_backward", "mm", "bmm", "addmm", "baddbmm"}

IN_HALF = {
    *(torch.conv1d, torch.conv2d, F.conv2d, F.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm, F.scaled_dot_product_attention),
}
"""What autocast computes in half precision."""

_HALVES = {torch.float16, torch.bfloat16}


def computed(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return what an operation gives on the CPU's tensors.

    What is in place, or not of one type of half precision alone, is left to torch, which may refuse it.
    """
    if func.overloadpacket.__name__ not in PRODUCTS or func._schema.is_mutable:
        return func(*args, **kwargs)
    types = {leaf.dtype for leaf in tree_leaves((args, kwargs)) if _is_float(leaf)}
    if len(types) != 1 or not types <= _HALVES:
        return func(*args, **kwargs)
    (half,) = types
    wide_args, wide_kwargs = _as_type((args, dict(kwargs)), torch.float32)
    return _as_type(func(*wide_args, **wide_kwargs), half)


def _as_type(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda leaf: leaf.to(dtype) if _is_float(leaf) else leaf, tree)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
