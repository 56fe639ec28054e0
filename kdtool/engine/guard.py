"""Steps whose loss or gradient is not finite: the update is withheld at once, and the host hears of it in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdtool.engine.processes import world_size
from kdtool.engine.shards import here, total_norm
from kdtool.recipe.schema import Train


class Guard:
    """Decides whether a step's update is made.

    A fused optimizer reads a flag on the device, so the host need not wait. Others there make the update with a
    gradient of zeros: weights stay finite until the host hears of the step, which ends the run before anything is
    saved. Where the run goes on after such a step (``train.on_nonfinite=skip``) the host reads the flag at every step,
    since running statistics, memory banks and averages have to be kept clean too. Under fp16 the gradient scaler
    withholds updates, as it is meant to while it finds its scale; then only the loss counts as bad.

    Attributes:
        recordable: a step of the optimizer is on the device as a whole, its numbers too.
    """

    def __init__(self, cfg: Train, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler):
        self.optimizer, self.scaler = optimizer, scaler
        self.skips = cfg.on_nonfinite == "skip"
        self.fused = all(group.get("fused") for group in optimizer.param_groups)
        self.recordable = all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)

    def update(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], norm: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Step the optimizer unless the loss or a gradient is not finite.

        Args:
            loss: the step's, a scalar.
            parameters: that train.
            norm: of all gradients, where it is known already.

        Returns:
            That flag, a bool scalar; and under fp16 whether the scaler withheld the update, else None. Neither is read.
        """
        if self.scaler.is_enabled():
            before = self._scale(loss)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return _anywhere(~torch.isfinite(loss.detach())), self._scale(loss) < before
        if norm is None:
            norm = total_norm([p.grad for p in parameters if p.grad is not None])
        bad = _anywhere(~(torch.isfinite(loss.detach()) & torch.isfinite(norm)))
        if self.skips or (not self.fused and bad.device.type == "cpu"):
            if not bool(bad):
                self.optimizer.step()
            return bad, None
        if self.fused:
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        else:
            for parameter in parameters:
                if parameter.grad is not None:
                    here(parameter.grad).masked_fill_(bad, 0.0)
        self.optimizer.step()
        return bad, None

    def _scale(self, loss: Tensor) -> Tensor:
        """Return the gradients' scale, on the device: it falls where an update is withheld."""
        return self.scaler.scale(torch.ones_like(loss.detach()))


def _anywhere(bad: Tensor) -> Tensor:
    """Return the flag of all processes: gradients are averaged and so alike, but each has its own loss."""
    if world_size() == 1:
        return bad
    flag = bad.float()
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return flag > 0
