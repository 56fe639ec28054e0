"""Several networks measured on the same tokens, a chunk of rows at a time: their losses, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.engine import tree
from kdtool.engine.rows import chunks
from kdtool.tasks.language.data.dataset import Split
from kdtool.tasks.language.models.built import Built
from kdtool.tasks.language.objective import TokenMeter

BANDS = (0, 8, 32, 128, 512)
"""Where bands of places in a sample begin, counted in tokens that are learnt: agreement may fall as a text goes on."""


@dataclass
class Agreement:
    """How near a student is to a teacher, token by token.

    Attributes:
        sums: (bands, 3) float64: KL(teacher || student) in nats, rows of one likeliest token, and rows; each summed.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(len(BANDS), 3, dtype=torch.float64))

    def add(self, student_RV: Tensor, teacher_RV: Tensor, band_R: Tensor) -> None:
        """Take logits of some rows, and the bands that these lie in."""
        ours, theirs = (F.log_softmax(each, dim=1) for each in (student_RV, teacher_RV))
        kl_R = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        same_R = student_RV.argmax(1).eq(teacher_RV.argmax(1)).to(kl_R.dtype)
        self.sums.index_add_(0, band_R, torch.stack([kl_R, same_R, torch.ones_like(kl_R)], dim=1).cpu().double())

    def figures(self) -> dict[str, Any]:
        """Return "agreement" (a share), "kl" (nats), and "positions": both by band."""
        kl, same, count = self.sums.sum(0).tolist()
        rows = []
        for (first, end), (own_kl, own_same, own) in zip(_bands(), self.sums.tolist(), strict=True):
            if own:
                rows.append(
                    {"from": first, "to": end, "tokens": int(own), "agreement": own_same / own, "kl": own_kl / own}
                )
        return {"agreement": same / max(count, 1), "kl": kl / max(count, 1), "positions": rows}


def _bands() -> list[tuple[int, int | None]]:
    ends: list[int | None] = [*BANDS[1:], None]
    return list(zip(BANDS, ends, strict=True))


def measure(
    student: Built, teachers: Sequence[Built], splits: Sequence[tuple[Split, Any]], device: torch.device
) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Agreement]]]:
    """Return the student's metrics, and each teacher's with the student's agreement.

    Args:
        student, teachers: the networks, of the same tokens.
        splits: each with its batches.
        device: where they run.
    """
    networks = [built.tapped().eval().to(device, torch.float32) for built in (student, *teachers)]
    meters, agreements = [TokenMeter() for _ in networks], [Agreement() for _ in teachers]
    for split, batches in splits:
        place = torch.cat(
            [torch.arange(end - first) for first, end in zip(split.offsets, split.offsets[1:], strict=False)]
        )
        band = torch.bucketize(place, torch.tensor(BANDS[1:]), right=True)
        for batch in batches.epoch(0):
            with torch.inference_mode():
                found = [network(tree.cast(batch.inputs, torch.float32))[0] for network in networks]
                sizes = chunks(found[0])
                deferred = [each.split(sizes) for each in found]
                for number, (labels, index) in enumerate(
                    zip(batch.labels.split(sizes), batch.index.split(sizes), strict=True)
                ):
                    logits = [each[number].whole() for each in deferred]
                    for meter, each in zip(meters, logits, strict=True):
                        meter.add(each, labels, index)
                    for agreement, each in zip(agreements, logits[1:], strict=True):
                        agreement.add(logits[0], each, band[index.cpu()])
    own, *theirs = (meter.metrics() for meter in meters)
    return own, list(zip(theirs, agreements, strict=True))
