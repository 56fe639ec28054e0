"""One kind of output (the logits, an embedding) as rows of a file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdtool.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOGITS = "logits"


def in_view(view: str, name: str) -> str:
    """Return the name of a part in a further view of the samples."""
    return f"{view}/{name}"


_FLOATS = {"fp16": "<f2", "fp32": "<f4"}
NOTHING = 1e4
"""By how much a logit is less than another whose share of the probability is to be all: exp(-10,000) is 0."""

_SMALL = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Part:
    """A (N, width) output of a teacher.

    Attributes:
        name: "logits", or the layer's name in the teacher.
        width: numbers a sample.
        dtype: "fp16" or "fp32", as stored.
        views: in how many views of each sample; views 0 to this less one.
        top_k: keep so many of the largest numbers, where they are, and the logsumexp of the others; None: all.
    """

    name: str
    width: int
    dtype: str
    views: int
    top_k: int | None = None

    @property
    def row(self) -> np.dtype[Any]:
        """A sample's layout in a file."""
        number = _FLOATS[self.dtype]
        if self.top_k is None:
            return np.dtype([("values", number, (self.width,))])
        places = "<i2" if self.width <= _SMALL else "<i4"
        # The lone number comes first and the wide ones before the narrow: each then lies at a multiple of its size.
        return np.dtype([("rest", "<f4"), ("index", places, (self.top_k,)), ("values", number, (self.top_k,))])

    def encode(self, output_BW: Tensor) -> np.ndarray:
        """Return a batch's rows.

        Raises:
            InputError: a number is too large for the type it would be stored in.
        """
        rows = np.empty(len(output_BW), dtype=self.row)
        values = output_BW.cpu().double()
        if self.top_k is not None:
            kept, index = values.topk(self.top_k, dim=1)
            rows["rest"] = values.scatter(1, index, float("-inf")).logsumexp(1).numpy()
            rows["index"], values = index.numpy(), kept
        with np.errstate(over="ignore"):
            rows["values"] = values.numpy()
        if not np.isfinite(rows["values"]).all():
            fix = "cache.dtype=fp32 may hold them" if self.dtype == "fp16" else "mend its weights or its precision"
            raise InputError(
                f"the teacher's {self.name} hold numbers that are not finite in {self.dtype}: {fix}, or do without the "
                "cache (cache.mode=off)."
            )
        return rows

    def decode(
        self,
        stored: Mapping[str, Tensor],
        dtype: torch.dtype,
        rest: str = "even",
        beside_BW: Tensor | None = None,
    ) -> Tensor:
        """Return (B, width) outputs of stored fields.

        Args:
            stored: by name, as ``encode`` wrote them.
            dtype: of the outputs.
            rest: how what was left out shares its probability, see ``cache.rest``.
            beside_BW: the student's logits; None: the rest is shared evenly where it would follow them.
        """
        values = stored["values"].to(dtype)
        if self.top_k is None:
            return values
        index = stored["index"].long()
        return filled(index, values, stored["rest"].to(dtype), self.width, rest, beside_BW, self.top_k)

    def in_views(self, views: int) -> Part:
        """Return the same in so many views at least."""
        return replace(self, views=max(views, self.views))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def filled(
    index_BT: Tensor,
    values_BT: Tensor,
    rest_B: Tensor,
    width: int,
    rest: str,
    beside_BW: Tensor | None,
    known: int | Tensor,
) -> Tensor:
    """Return (B, width) logits of which some are known, and of the others what they sum to.

    Args:
        index_BT: which are known; one that stands there twice has the same value.
        values_BT: those.
        rest_B: the logsumexp of the others.
        width: how many there are.
        rest: how the others share their probability, see ``cache.rest``.
        beside_BW: the student's logits; None: the rest is shared evenly where it would follow them.
        known: how many are, of every row or (B,) of each.
    """
    rest_B1 = rest_B[:, None]
    if rest == "none":
        shared = values_BT.amax(1, keepdim=True) - NOTHING
    elif rest == "student" and beside_BW is not None:
        beside_BW = beside_BW.to(values_BT.dtype)
        others_B1 = beside_BW.scatter(1, index_BT, float("-inf")).logsumexp(1, keepdim=True)
        shared = beside_BW - others_B1 + rest_B1
    elif isinstance(known, int):
        shared = rest_B1 - float(np.log(width - known))
    else:
        shared = rest_B1 - (width - known).clamp(min=1).to(rest_B).log()[:, None]
    return shared.expand(-1, width).scatter(1, index_BT, values_BT)
