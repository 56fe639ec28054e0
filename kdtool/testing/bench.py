"""What the checks work on: tiny tapped networks, a method on top, and batches, all functions of small seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.freeze import Frozen
from kdtool.engine.precision import Precision
from kdtool.engine.step import Step, teach
from kdtool.method import Batch, Method, Out, Setup, Stage
from kdtool.randomness import seed_torch
from kdtool.tasks.common.classification import Classification
from kdtool.tasks.images.models.build import build

CNN, VIT = "CNN", "ViT"
NETWORKS = {CNN: "test_resnet", VIT: "test_vit"}
"""timm's own test networks: 0.4 million parameters, milliseconds a step."""

PAIRS = [(student, teacher) for student in NETWORKS for teacher in NETWORKS]
SIZE, CLASSES, SAMPLES, BATCH = 32, 5, 32, 8


@dataclass
class Data:
    """A batch. ``labels``: (B,) int64, -1 for none, or (B, K); ``index``: (B,) positions among SAMPLES."""

    inputs: Tensor
    labels: Tensor
    index: Tensor

    def part(self, number: int, parts: int) -> Data:
        """Return one of equal parts of the batch."""
        return Data(*(tensor.chunk(parts)[number] for tensor in (self.inputs, self.labels, self.index)))


def all_labels() -> Tensor:
    """Return (SAMPLES,) the class of every sample."""
    return torch.arange(SAMPLES) % CLASSES


def data(number: int = 0, size: int = BATCH) -> Data:
    """Return batch ``number``: noise around a mean that tells the class, in no particular order."""
    generator = torch.Generator().manual_seed(number)
    index = torch.randperm(SAMPLES, generator=generator)[:size]
    labels = all_labels()[index]
    inputs = torch.randn(size, 3, SIZE, SIZE, generator=generator) + 0.5 * labels.view(-1, 1, 1, 1)
    return Data(inputs, labels, index)


@dataclass
class Rig:
    """A student, its teachers or peers and the method, as the engine holds them.

    Attributes:
        step: all that trains.
        teachers: frozen networks; none for online and self methods.
    """

    step: Step
    teachers: list[nn.Module]
    precision: Precision

    @property
    def method(self) -> Method:
        method = self.step.method
        assert method is not None
        return method

    @property
    def stages(self) -> list[Stage]:
        return self.method.stages()

    def enter(self, stage: Stage) -> Frozen:
        """Start a stage as the engine does: freeze what it does not train."""
        self.step.stage = stage
        frozen = Frozen(self.step, stage, lambda: total(self.terms(data())))
        frozen.train_mode()
        return frozen

    def teach(self, batch: Data) -> list[Out]:
        """Return the frozen teachers' outputs."""
        return teach(self.teachers, batch.inputs.to(self.precision.dtype), self.precision)

    def run(self, batch: Data, teachers: list[Out] | None = None, step: Any = None) -> tuple[dict[str, Tensor], Batch]:
        """Return the weighted terms and the batch as the method saw it.

        Args:
            batch: inputs and labels.
            teachers: their outputs; None: live ones.
            step: in the place of ``self.step``, such as a compiled one.
        """
        outs = self.teach(batch) if teachers is None else teachers
        inputs = batch.inputs.to(self.precision.dtype)
        # The engine seeds the generators at every step, too.
        seed_torch("check", "step")
        call = self.step if step is None else step
        found: tuple[dict[str, Tensor], Batch] = call(inputs, batch.labels, batch.index, outs, 0, 0.25)
        return found

    def terms(self, batch: Data) -> dict[str, Tensor]:
        """Return the weighted terms of a batch, the hard-label one included."""
        return self.run(batch)[0]

    def train(self, batch: Data, lr: float) -> None:
        """Take one plain gradient step, then let the method update its state."""
        terms, seen = self.run(batch)
        loss = total(terms)
        if loss.requires_grad:  # a batch without labels may have nothing to teach
            loss.backward()
        with torch.no_grad():
            for parameter in self.step.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=lr)
                    parameter.grad = None
            self.method.after_step(seen)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of every parameter that has one, by name, and clear it."""
        found = {name: p.grad.clone() for name, p in self.step.named_parameters() if p.grad is not None}
        self.step.zero_grad(set_to_none=True)
        return found


def total(terms: dict[str, Tensor]) -> Tensor:
    """Return the loss: the sum of its terms.

    Raises:
        TypeError: a term is no scalar tensor.
    """
    odd = [name for name, term in terms.items() if not isinstance(term, Tensor) or term.ndim > 0]
    if odd or not terms:
        raise TypeError(f"a loss must return scalar tensors by name; {', '.join(odd) or 'none'} returned")
    values = list(terms.values())
    return sum(values[1:], values[0])


@dataclass(frozen=True)
class Bench:
    """Builds rigs of one method.

    Attributes:
        cls: the method.
        name: what messages call it.
    """

    cls: type[Method]
    name: str

    def rig(
        self,
        student: str = CNN,
        teachers: str | Sequence[str] = CNN,
        *,
        seed: int = 0,
        precision: str = "fp32",
        labels: Tensor | None = None,
        change: Callable[[nn.Module, list[nn.Module]], None] | None = None,
    ) -> Rig:
        """Return a fresh rig, its first weights functions of ``seed``.

        Args:
            student: kind of the student, a key of NETWORKS.
            teachers: kind of the teacher, repeated to as many as the method needs; or one kind for each teacher.
            seed: of the student's and the method's first weights; the teachers' are always the same.
            precision: as ``train.precision``.
            labels: (SAMPLES,) classes of all samples; default: all known.
            change: gets the plain student and teachers before they are tapped.
        """
        cfg = self.cls.Config()
        kinds = [teachers] * self.teacher_count if isinstance(teachers, str) else list(teachers)
        taps = self.cls.taps(cfg)
        own = _network(student, "student", seed)
        others = [_network(kind, f"teacher{number}", 0) for number, kind in enumerate(kinds)]
        if change is not None:
            change(own.module, [built.module for built in others])
        student_net, nets = own.tapped(taps.student), [built.tapped(taps.teacher) for built in others]
        setup = Setup(
            student=student_net.shapes(SIZE),
            teachers=[net.shapes(SIZE) for net in nets],
            num_classes=CLASSES,
            num_samples=SAMPLES,
            batch_size=BATCH,
            labels=all_labels() if labels is None else labels,
        )
        seed_torch("init", "method", seed)
        method = self.cls(cfg, setup)
        arithmetic = Precision(precision, torch.device("cpu"))
        peers: list[nn.Module] = list(nets) if self.cls.online else []
        frozen: list[nn.Module] = [] if self.cls.online else [net.eval().requires_grad_(False) for net in nets]
        step = Step(student_net, method, peers, Classification(CLASSES).hard_loss, arithmetic)
        dtype = arithmetic.dtype
        return Rig(step.to(dtype), [net.to(dtype) for net in frozen], arithmetic)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (student, teacher) kinds to check: all four, or each student once where there is no teacher."""
        return PAIRS if self.teacher_count else [(kind, kind) for kind in NETWORKS]

    @property
    def teacher_count(self) -> int:
        """The fewest teachers that the method takes, but one where it takes any."""
        low, high = self.cls.teachers
        return 0 if high == 0 else max(1, low)


def _network(kind: str, role: str, seed: int) -> Any:
    return build(NETWORKS[kind], "scratch", CLASSES, SIZE, seed=seed, role=role)
