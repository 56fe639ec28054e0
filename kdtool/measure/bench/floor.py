"""The floor: a bare loop with the same arithmetic as the engine's and nothing else.

No data path, no metrics, no checks, no checkpoints: ready batches, the teacher's forward (or its stored outputs), the
student's forward, the loss, backward, the optimizer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdtool.engine.job import Loaded, Replay
from kdtool.engine.optim import build_optimizer
from kdtool.engine.plan import plan_stages
from kdtool.engine.precision import Precision
from kdtool.engine.step import run_network, teach
from kdtool.engine.teaching import FrozenTeachers, watched
from kdtool.engine.tree import apply, cast
from kdtool.method import Batch, Out
from kdtool.randomness import seed_torch
from kdtool.runs.setting import Setting

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Features:
    """What makes a step cheaper, each to be switched on by itself.

    Attributes:
        channels_last: memory layout of networks and inputs.
        fused: one optimizer kernel for all parameters.
        folded: the teacher's batch norms are folded, under inference mode.
        precision: of student and teacher.
        replayed: the teacher's outputs are stored.
        compiled: student and loss, in a mode of ``torch.compile``.
    """

    channels_last: bool = True
    fused: bool = True
    folded: bool = True
    precision: str = "fp32"
    replayed: bool = False
    compiled: str = "off"


class BareLoop:
    """Copies of a run's networks and method in a loop of their own.

    Args:
        run: built, its teachers ready.
        stage: which of the method's stages, from 0.
        batches: to go through again and again.
        features: as the engine that it is compared with has them.
        replay: gives the stored outputs, for ``features.replayed``.
    """

    def __init__(self, run: Setting, stage: int, batches: Sequence[Loaded], features: Features, replay: Replay | None):
        self.precision = Precision(features.precision, run.device)
        layout = torch.channels_last if features.channels_last else torch.contiguous_format
        # Copied at once: a method may refer to its networks' own layers.
        student, method, nets = copy.deepcopy((run.networks.student_net, run.method, run.networks.teacher_nets))
        self.student = self._place(student, run.device, layout)
        self.method = self._place(method, run.device, layout) if method is not None else None
        self.objective = run.objective
        self.stage = plan_stages(self.method, run.recipe.train.epochs, run.recipe.train.task_weight)[stage].stage
        self.inputs = [apply(cast(b.inputs, self.precision.dtype), _laid_out(layout)) for b in batches]
        self.labels, self.index = [b.labels for b in batches], [b.index for b in batches]
        self.peers: list[Any] = [self._place(net, run.device, layout) for net in nets] if run.online else []
        self.teachers = [] if run.online else self._teachers(nets, features, layout, run.device)
        self.stored: list[list[Out]] | None = None
        self.forward: Any = self._forward
        self._freeze()
        if features.compiled != "off":
            torch._dynamo.reset()
            self.forward = torch.compile(self._forward, mode=features.compiled)
        if features.replayed and replay is not None:
            self.stored = [replay.outputs(b.index, b.view, b.positions) for b in batches]
        optim = copy.deepcopy(run.recipe.optim)
        optim.options = {**optim.options, **({} if features.fused else {"fused": False})}
        everything = nn.ModuleList([m for m in (self.student, self.method, *self.peers) if m is not None])
        self.optimizer = build_optimizer(optim, everything)
        self.device, self.next = run.device, 0

    def _place(self, module: M, device: torch.device, layout: Any) -> M:
        placed: Any = module.to(device, self.precision.dtype)
        return placed.to(memory_format=layout)  # type: ignore[no-any-return]

    def _teachers(self, nets: Sequence[nn.Module], features: Features, layout: Any, device: torch.device) -> list[Any]:
        if not features.folded:
            return [self._place(copy.deepcopy(net), device, layout).eval().requires_grad_(False) for net in nets]
        frozen = FrozenTeachers(nets, self.precision, layout)
        frozen(self.inputs[0])
        return frozen.networks

    def _freeze(self) -> None:
        """Train what the stage trains: what gets a gradient from its loss."""
        owners = {"student": [self.student], "method": [m for m in (self.method, *self.peers) if m is not None]}
        for name, modules in owners.items():
            for module in modules:
                module.requires_grad_(name in self.stage.trains).train(name in self.stage.trains)
        trained = [p for modules in owners.values() for module in modules for p in module.parameters()]
        self.reads: list[set[str]] = []
        self._loss(0, watch=True)[0].backward()
        for parameter in trained:
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    def _taught(self, at: int) -> list[Out]:
        if self.peers:
            return [run_network(peer, self.inputs[at], self.precision) for peer in self.peers]
        if self.stored is not None:
            return self.stored[at]
        return teach(self.teachers, self.inputs[at], self.precision)

    def _loss(self, at: int, watch: bool = False) -> tuple[Tensor, Batch]:
        taught = self._taught(at)
        if watch:
            taught, self.reads = watched(taught)
        found: tuple[Tensor, Batch] = self.forward(self.inputs[at], self.labels[at], self.index[at], taught)
        return found

    def _forward(self, inputs: Any, labels: Tensor, index: Tensor, taught: list[Out]) -> tuple[Tensor, Batch]:
        with torch.set_grad_enabled("student" in self.stage.trains):
            student = run_network(self.student, inputs, self.precision)

        def task_loss(logits: Tensor) -> Tensor:
            return self.objective.hard_loss(logits, labels)

        with self.precision.loss():
            batch = Batch(labels, index, student, taught, task_loss)
            terms = list(self.stage.loss(batch).values())
            if self.stage.task_weight:
                terms.append(self.stage.task_weight * task_loss(student.logits))
            return sum(terms[1:], terms[0]), batch

    def run(self, steps: int) -> float:
        """Take some steps; return the seconds that they took."""
        seed_torch("bench")
        synchronize(self.device)
        began = time.perf_counter()
        for _ in range(steps):
            at, self.next = self.next, (self.next + 1) % len(self.inputs)
            loss, batch = self._loss(at)
            self.precision.scaler.scale(loss).backward()
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            if self.method is not None:
                with torch.no_grad():
                    self.method.after_step(batch)
        synchronize(self.device)
        return time.perf_counter() - began

    def teach(self, steps: int) -> float:
        """Return the seconds that the teachers' outputs alone take for some steps."""
        synchronize(self.device)
        began = time.perf_counter()
        for _ in range(steps):
            self._taught(0)
        synchronize(self.device)
        return time.perf_counter() - began

    def kept_bytes(self) -> int:
        """Return the bytes of what one step keeps for its backward pass, each piece of memory once."""
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self._loss(0)
        return sum(kept.values())


def _laid_out(layout: torch.memory_format) -> Callable[[Tensor], Tensor]:
    """Return what brings tensors with channels to a memory layout, and leaves others."""
    return lambda tensor: tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
