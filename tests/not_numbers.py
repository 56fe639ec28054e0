"""Which operation first gives a NaN, for runs that end with "a gradient is not finite" only now and then.

One that gives another result when it is repeated reads memory that nobody wrote to: a kernel's own fault.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.simulated import OnDevice

_ANY_MEMORY = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
"""What gives memory as it comes, whose numbers mean nothing."""


class NotNumbers(TorchDispatchMode):
    """Looks at all that operations give, on whatever device, as long as the body runs.

    Attributes:
        first: the operation, what it was given, and what it gives when it is repeated; "" while there was none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        writes = func._schema.is_mutable
        given = [_text(each) for each in tree_leaves((args, kwargs))] if writes and not self.first else []
        found = func(*args, **kwargs)
        if self.first or name in _ANY_MEMORY:
            return found
        written = tree_leaves((args, kwargs)) if writes else []
        if any(map(_has_nan, [*tree_leaves(found), *written])):
            again = "" if writes else _compared(tree_leaves(found), tree_leaves(func(*args, **kwargs)))
            given = given or [_text(each) for each in tree_leaves((args, kwargs))]
            self.first = f"{name}({', '.join(given)}){again}"
        return found


def _numbers(value: Any) -> Tensor | None:
    """Return the CPU's tensor of one that has floating-point numbers."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return (value.inner if isinstance(value, OnDevice) else value).detach()


def _has_nan(value: Any) -> bool:
    numbers = _numbers(value)
    return numbers is not None and bool(torch.isnan(numbers).any())


def _text(value: Any) -> str:
    numbers = _numbers(value)
    if numbers is None:
        return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else str(value)
    finite = "finite" if bool(numbers.isfinite().all()) else "NaN" if _has_nan(value) else "infinite"
    return f"{tuple(numbers.shape)} strides {numbers.stride()} {numbers.dtype} {finite}"


def _compared(one: list[Any], other: list[Any]) -> str:
    pairs = [(_numbers(a), _numbers(b)) for a, b in zip(one, other, strict=True)]
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs if a is not None and b is not None)
    return ", and the same again" if same else ", but another result when repeated"
