"""Where a training stands, and how that is saved and found again."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.checkpoint import load_newest, save_checkpoint
from kdtool.engine.job import Job
from kdtool.engine.meters import Meters
from kdtool.engine.processes import from_main, is_main, wait_for_all
from kdtool.engine.shard_files import fill, moments_like, split_off, write_parts
from kdtool.engine.shards import whole
from kdtool.errors import InputError
from kdtool.events import Reporter

PARTS_ASIDE = ".parts.tmp"
"""Where processes write their parts before a checkpoint has them."""


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        stage, epoch, step: what comes next: the stage's number, its epoch and the epoch's batch, from 0.
        updates: steps of the student over all stages.
        pieces: micro-batches that a batch is split into.
        skipped: steps whose update was withheld, since something was not finite.
        withheld: steps of the stage whose update fp16's scaler withheld.
        best: {"epoch", "val", "state"} of the best epoch so far.
        last: {"epoch", "val"} of the last epoch of the last stage.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    updates: int = 0
    pieces: int = 1
    skipped: int = 0
    withheld: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "val": None})

    def move(self, stage: int, epoch: int = 0, step: int = 0) -> None:
        """Set what comes next."""
        self.stage, self.epoch, self.step = stage, epoch, step


class Saver:
    """Writes and reads a job's checkpoints.

    Args:
        job: whose folder they are in.
        parts: what has a ``state_dict``, by name.
    """

    def __init__(self, job: Job, parts: dict[str, Any]):
        self.job, self.parts = job, parts
        self.folder = job.folder / "checkpoints"

    def save(self, at: Progress, optimizer: torch.optim.Optimizer | None, meters: Meters | None) -> None:
        """Save everything; in the middle of a stage its optimizer too, in the middle of an epoch its meters."""
        in_parts: dict[str, Tensor] = {}
        if is_main() or self.job.shard:
            state = {
                "key": self.job.key,
                "progress": dict(vars(at)),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "optimizer": optimizer.state_dict() if optimizer is not None else None,
                "meters": meters.state() if meters is not None else None,
            }
            state = split_off(state, in_parts) if self.job.shard else state
        parts = write_parts(self.folder / PARTS_ASIDE, in_parts) if in_parts else None
        if is_main():
            name = "step-" + "-".join(f"{number:06d}" for number in (at.stage, at.epoch, at.step))
            best = at.best is not None and at.best["epoch"] == at.last["epoch"] and at.step == 0
            save_checkpoint(self.folder, name, state, self.job.checkpoint.keep, best, parts)
        wait_for_all()

    def load(self, reporter: Reporter) -> dict[str, Any] | None:
        """Put the parts back as the newest sound checkpoint has them, and return it; None where there is none."""
        state, passed_over = from_main(load_newest(self.folder) if is_main() else None)
        for problem in passed_over:
            reporter.warn(problem)
        if state is None:
            return None
        self._check_key(str(state.get("key")))
        try:
            Progress(**state["progress"])
            for name, part in self.parts.items():
                part.load_state_dict(fill(state["parts"][name], part.state_dict()))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the checkpoint in {self.folder} is of other networks, or of another recipe ({str(error)[:300]}): "
                "use another --out."
            ) from error
        found: dict[str, Any] = state
        return found

    def _check_key(self, key: str) -> None:
        if key == self.job.key or self.job.accept_changes:
            return
        before, now = (dict(part.split("=") for part in each.split() if "=" in part) for each in (key, self.job.key))
        changed = [name for name in now if before.get(name) != now[name]]
        what = f"with another {' and '.join(changed)}" if before and changed else "by another recipe"
        raise InputError(
            f"the checkpoints in {self.job.folder} were made {what}: put it back, use another --out, or go on all the "
            "same by --resume and --accept-changes."
        )


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of the plain network's weights inside a tapped one."""
    plain = getattr(network, "module", network)
    return {name: whole(tensor.detach()).cpu().clone() for name, tensor in plain.state_dict().items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put an optimizer's moments back."""
    state = copy.deepcopy(fill(state, moments_like(optimizer)))
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        # A run may be gone on with in another form, such as divided weights, which have no fused one.
        saved.update({form: group[form] for form in ("fused", "capturable") if form in group})
    optimizer.load_state_dict(state)
    # Moments keep their parameter's memory layout, so that a resumed step runs the very same kernels.
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
