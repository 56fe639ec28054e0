"""One step of a method, run once on noise: what it aligns and how, and what the step costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdtool.engine.precision import Precision
from kdtool.engine.step import Step, teach, whole_out
from kdtool.randomness import seed_torch
from kdtool.runs.setting import Setting
from kdtool.tasks.common.cost import counted

SAMPLES = 8
"""Samples of the step that is run; costs are given for the recipe's batch."""

_NAMES: dict[Any, str] = {
    F.conv2d: "convolution",
    F.conv_transpose2d: "transposed convolution",
    F.linear: "linear layer",
    F.adaptive_avg_pool2d: "average pooling",
    F.avg_pool2d: "average pooling",
    F.max_pool2d: "max pooling",
    F.interpolate: "interpolation",
}


class _Operations(TorchFunctionMode):
    """Notes what brings one shape to another: convolutions, linear layers, pooling and interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.inside = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        noted = func in _NAMES and not self.inside
        self.inside = self.inside or noted
        try:
            out = func(*args, **(kwargs or {}))
        finally:
            self.inside = self.inside and not noted
        given = args[0] if args else (kwargs or {}).get("input")
        if noted and isinstance(given, Tensor) and isinstance(out, Tensor):
            what, weight = _NAMES[func], args[1] if len(args) > 1 else (kwargs or {}).get("weight")
            if func in (F.conv2d, F.conv_transpose2d) and isinstance(weight, Tensor):
                what = f"{weight.shape[2]}x{weight.shape[3]} {what}"
            entry = {"operation": what, "from": tuple(given.shape[1:]), "to": tuple(out.shape[1:])}
            if entry not in self.found and entry["from"] != entry["to"]:
                self.found.append(entry)
        return out


def steps(setting: Setting) -> list[dict[str, Any]]:
    """Run one step of every stage and return, by stage, its terms, alignments and costs.

    Costs are multiply-accumulates of a step at ``train.batch_size``: "teacher" and "student" forwards, the "method"'s
    own parts, and the "backward" of all. Weights and buffers of the networks may change; they are to be thrown away.
    """
    recipe, networks, online = setting.recipe, setting.networks, setting.online
    inputs, precision = setting.dry_inputs(SAMPLES), Precision("fp32", torch.device("cpu"))
    objective = setting.task.objective(setting.data, 0.0)
    nets: list[nn.Module] = list(networks.teacher_nets)
    step = Step(networks.student_net, setting.method, nets if online else [], objective.hard_loss, precision)
    step.eval()
    factor = recipe.train.batch_size / SAMPLES
    with counted(*nets) as count:
        teachers = teach(nets, inputs, precision)
    teacher_macs = count.macs
    rows = []
    for each in setting.stages:
        step.stage = each.stage
        seed_torch("step", recipe.train.seed)
        with counted(step) as ahead:
            student, peers = step.networks(inputs)
            student = whole_out(student)  # a head's work is the student's
        rows_B = torch.arange(len(student.logits))
        with counted(step) as own, _Operations() as operations:
            terms, _ = step.losses(student, peers or teachers, rows_B % max(objective.num_classes, 1), rows_B, 0, 0.0)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        with counted(mapping=_GRADIENTS) as back:
            if total.requires_grad:
                total.backward()
        # A fused recurrent layer's gradients: of what it takes, and of its weights.
        unseen = 2 * ahead.recurrent if total.requires_grad else 0
        costs = {
            "teacher": 0 if online else teacher_macs,
            "student": ahead.macs,
            "method": own.macs,
            "backward": back.macs + unseen,
        }
        rows.append(
            {
                "stage": each.stage.name,
                "epochs": each.epochs,
                "trains": list(each.stage.trains),
                "terms": list(terms),
                "alignments": operations.found,
                "macs": {name: int(value * factor) for name, value in costs.items()},
            }
        )
    return rows


def tap_bytes(shapes: Any, batch_size: int) -> int:
    """Return what taps of these shapes take in fp32 for a batch: a shape, or roles and lists of them."""
    if isinstance(shapes, Mapping):
        return sum(tap_bytes(each, batch_size) for each in shapes.values())
    if isinstance(shapes, list):
        return sum(tap_bytes(each, batch_size) for each in shapes)
    count = 4 * batch_size
    for side in shapes:
        count *= side
    return count


def _convolution_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], weight_shape: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Return the FLOPs of a convolution's gradients: each of the input's and the weight's costs as much as its output.

    The arguments are those of ``aten.convolution_backward``, shapes in place of tensors.
    """
    transposed, wanted = rest[4], rest[7]
    positions = math.prod((x_shape if transposed else grad_shape)[2:])
    return 2 * x_shape[0] * positions * math.prod(weight_shape) * (bool(wanted[0]) + bool(wanted[1]))


# torch counts a grouped convolution's weight gradient as if each group had all channels.
_GRADIENTS = {torch.ops.aten.convolution_backward: _convolution_backward}
