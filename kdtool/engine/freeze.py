"""What a stage trains: freezing by name, then by a dry backward that shows what gets a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from kdtool.engine.dry import buffers_of, changed, copy_buffers, put_back
from kdtool.engine.step import Step
from kdtool.errors import InputError
from kdtool.method import Stage

TRAINABLE = ("student", "method")


def owners(step: Step) -> dict[str, list[nn.Module]]:
    """Return the modules that each name in ``Stage.trains`` stands for."""
    own = [step.method] if step.method is not None else []
    return {"student": [step.student], "method": [*own, *step.peers]}


class Frozen:
    """Prepares a step's modules for a stage, and restores their modes for each training epoch.

    Parameters outside ``stage.trains``, and those that a dry backward leaves without gradient, stop training; norms
    whose output gets no gradient keep their running statistics, and with ``freeze_bn`` so do all of the student's. A
    student's parameters whose names stand in its ``fixed``, where it has that, are never trained.

    Attributes:
        moving: the buffers that forward and backward change, such as running statistics.
    """

    def __init__(self, step: Step, stage: Stage, dry_loss: Callable[[], Tensor], freeze_bn: bool = False):
        unknown = set(stage.trains) - set(TRAINABLE)
        if unknown:
            raise InputError(f"stage {stage.name!r} trains {sorted(unknown)}; valid: {', '.join(TRAINABLE)}.")
        self.step = step
        self.trained = [m for name, modules in owners(step).items() if name in stage.trains for m in modules]
        self.still = [m for m in step.student.modules() if _keeps_statistics(m)] if freeze_bn else []
        for parameter in step.parameters():
            parameter.requires_grad_(False)
        for module in self.trained:
            module.requires_grad_(True)
        for name in getattr(step.student, "fixed", ()):
            step.student.get_parameter(name).requires_grad_(False)
        self.train_mode()
        before = copy_buffers(buffers_of(step))
        try:
            with _norms_reached(self.trained) as reached:
                loss = dry_loss()
                if not loss.requires_grad:
                    raise InputError(f"stage {stage.name!r}: its loss depends on nothing that the stage trains.")
                loss.backward()
            self.moving = changed(before)
        finally:
            put_back(before)
        self.still += [m for root in self.trained for m in root.modules() if _keeps_statistics(m) and m not in reached]
        for parameter in step.parameters():
            if parameter.grad is None:
                parameter.requires_grad_(False)
            parameter.grad = None
        self.train_mode()  # what is still is known now, and what is compiled is to see it so

    def train_mode(self) -> None:
        """Put what trains into training mode and the rest into evaluation mode."""
        self.step.eval()
        for module in self.trained:
            module.train()
        for module in self.still:
            module.eval()


def _keeps_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None


@contextmanager
def _norms_reached(roots: list[nn.Module]) -> Iterator[set[nn.Module]]:
    """Collect the norms with running statistics whose output a backward pass reaches."""
    reached: set[nn.Module] = set()

    def watch(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda _: reached.add(module))

    norms = [m for root in roots for m in root.modules() if _keeps_statistics(m)]
    handles = [norm.register_forward_hook(watch) for norm in norms]
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()
