"""Deep Mutual Learning. Zhang, Xiang, Hospedales & Lu, CVPR 2018. https://arxiv.org/abs/1706.00384

The paper updates the networks in turn, each against the others' newest predictions (``updates=alternating``). By
default all networks take one step from the same predictions, so that a step is one forward and one backward of each; in
turn it is as many forwards of all as there are networks, and batch norms see the batch as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import softened_kl


def peer_loss(student_logits: Tensor, peer_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 · KL(softmax(peer / T) || softmax(student / T)), mean over the batch; the peer is a constant.

    The paper has T = 1. The factor T^2 keeps the gradient's size as T changes.

    Args:
        student_logits: (B, K), of the network that learns.
        peer_logits: (B, K), of the network it learns from.
        temperature: T > 0.
    """
    return softened_kl(student_logits, peer_logits.detach(), temperature)


class DML(Method):
    """The student and its peers, the other networks given, start untrained and learn from one another."""

    api = 1
    paper = "Zhang et al., Deep Mutual Learning, CVPR 2018"
    year = 2018
    url = "https://arxiv.org/abs/1706.00384"
    equation = (
        "for each network k of the K that train along: cross-entropy + weight / (K - 1) · "
        "sum over the others l of T^2 · KL(softmax(l / T) || softmax(k / T))"
    )
    knowledge = "response"
    teachers = (1, None)
    online = True

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of each network's mean divergence from the others", min=0.0)
        temperature: float = option(1.0, "T, softens all distributions; the paper has 1", min=0.01)
        updates: str = option(
            "together",
            "together: one step of all networks; alternating: one after the other, as in the paper, the student last",
            choices=("together", "alternating"),
            late=True,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        terms = self.student_loss(batch)
        for number in range(len(batch.teachers)):
            terms |= self.peer_losses(number, batch)
        return terms

    def student_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the student learns from."""
        return {"kl": self.mimicry(batch.student.logits, [out.logits for out in batch.teachers])}

    def peer_losses(self, number: int, batch: Batch) -> dict[str, Tensor]:
        """Return what a peer learns from."""
        peers = [out.logits for out in batch.teachers]
        others = [batch.student.logits, *peers[:number], *peers[number + 1 :]]
        return {
            f"peer{number}.task": batch.task_loss(peers[number]),
            f"peer{number}.kl": self.mimicry(peers[number], others),
        }

    def stages(self) -> list[Stage]:
        if self.cfg.updates == "together":
            return [Stage("distill", self.loss)]
        peers = [partial(self.peer_losses, number) for number in range(len(self.setup.teachers))]
        return [Stage("distill", self.loss, turns=(*peers, self.student_loss))]

    def mimicry(self, logits: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Return one network's weighted divergence from the others, their mean."""
        losses = [peer_loss(logits, other, self.cfg.temperature) for other in others]
        weighted: Tensor = self.cfg.weight / len(losses) * sum(losses[1:], losses[0])
        return weighted
