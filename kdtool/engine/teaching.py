"""Where the teachers' outputs come from: computed, or replayed from a cache. A method cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.engine.by_input import call, frozen
from kdtool.engine.folding import CPU, folded
from kdtool.engine.job import OWN, Loaded, Replay
from kdtool.engine.precision import Precision
from kdtool.engine.quantised import in_int8, need_package
from kdtool.engine.shards import is_sharded
from kdtool.engine.step import as_out, in_all_views
from kdtool.engine.watched import Watched
from kdtool.losses import at_least_fp32
from kdtool.method import Out

VIEW = "view "
"""Before the name of a further view among the roles that a stage reads."""


class FrozenTeachers:
    """Teachers that only compute: batch norms folded, in their own precision, under inference mode
    but where a method differentiates by the inputs.

    Args:
        networks: tapped networks; they are copied, not changed, but go back to the CPU. Those that processes have
            divided stay where they are, and teach themselves.
        precisions: one for all, or one for each.
        layout: memory layout of their weights.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        precisions: Precision | Sequence[Precision],
        layout: torch.memory_format = torch.channels_last,
    ):
        if isinstance(precisions, Precision):
            precisions = [precisions] * len(networks)
        if any(each.int8 for each in precisions):
            need_package()
        self.originals, self.precisions, self.layout = networks, precisions, layout
        self.networks: list[nn.Module] = []

    def first(self, inputs: Any) -> tuple[nn.Module, Precision]:
        """Return the first teacher, ready for a tree of inputs, and the arithmetic of its forward."""
        self._get_ready(inputs)
        return self.networks[0], self.precisions[0]

    def _get_ready(self, inputs: Any) -> None:
        if not self.networks:
            # At the first batch, since only an input shows what can be folded.
            originals = zip(self.originals, self.precisions, strict=True)
            self.networks = [self._ready(network, precision, inputs) for network, precision in originals]

    def __call__(self, inputs: Any) -> list[Out]:
        """Return each teacher's outputs for a tree of inputs."""
        self._get_ready(inputs)
        pairs = zip(self.networks, self.precisions, strict=True)
        return [self._run(network, precision, inputs) for network, precision in pairs]

    @staticmethod
    def _run(network: nn.Module, precision: Precision, inputs: Any) -> Out:
        def run(inputs: Any) -> Out:
            # What is gathered under inference mode could never be used outside of it.
            mode = torch.no_grad if is_sharded(network) else torch.inference_mode
            with frozen(network, mode), precision.forward():
                found = call(network, tree.cast(inputs, precision.dtype))
            return as_out(found, _own, precision.forward, late=True)

        return in_all_views(inputs, run)

    def _ready(self, network: nn.Module, precision: Precision, inputs: Any) -> nn.Module:
        if is_sharded(network):
            return network.to(precision.dtype).eval().requires_grad_(False)
        own = next((parameter.dtype for parameter in network.parameters()), precision.dtype)
        # In the type that it teaches in before anything is folded, which rounds to that.
        network = network.to(tree.device_of(inputs), precision.dtype)
        ready, _ = folded(network, tree.cast(tree.first(tree.usual(inputs)), precision.dtype))
        ready = ready.eval().requires_grad_(False)
        # The layout decides the kernels, and so the last bits: one just trained must not differ from one reloaded.
        ready = ready.to(memory_format=self.layout)
        if precision.int8:
            ready = in_int8(ready)
        if precision.half is not None:
            for module in ready.modules():
                # What autocast would do to these weights anew at every step.
                if type(module) in (nn.Conv2d, nn.Linear):
                    module.to(precision.half)
        # The copy is all that computes from now on: a device need not hold the weights twice.
        network.to(CPU, own)
        return ready


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor of inference mode, which no backward pass may save, as one of at least fp32 that it may."""
    wide = at_least_fp32(tensor)
    return wide.clone() if wide.is_inference() else wide


class Teaching:
    """The teachers' side of a step: live or, in stages that read nothing else than what a cache holds, replayed.

    Args:
        live: computes.
        replay: what a cache gives; None: there is none.
        say: told, once a stage, why a stage that might replay does not.
    """

    def __init__(self, live: FrozenTeachers, replay: Replay | None, say: Callable[[str], None]):
        self.live, self.replay, self.say = live, replay, say
        self.replaying = self.silent = False

    def run_live(self, silent: bool = False) -> None:
        """Compute, whatever the cache holds: for the dry step that shows what a stage reads.

        Args:
            silent: nothing at all is computed from now on: the stage learns from what a teacher writes.
        """
        self.replaying, self.silent = False, silent

    def enter(self, stage: str, read: Sequence[set[str]]) -> None:
        """Begin a stage whose loss reads these roles of each teacher."""
        self.replaying = False
        if self.replay is None or self.silent:
            return
        lacking = sorted({role for need, has in zip(read, self.replay.roles, strict=True) for role in need - has})
        self.replaying = not lacking
        if lacking:
            self.say(f"stage {stage}: the teacher runs live, for the cache does not hold {', '.join(lacking)}")

    def __call__(self, part: Loaded) -> list[Out]:
        """Return each teacher's outputs for a batch, or a part of one, whose inputs are as the student gets them.

        What a student wrote no cache holds.
        """
        if self.silent:
            return []
        if self.replaying and part.view != OWN:
            assert self.replay is not None
            return self.replay.outputs(part.index, part.view, part.positions)
        return self.live(part.inputs)


def watched(outs: Sequence[Out]) -> tuple[list[Out], list[set[str]]]:
    """Return the outputs in such a form that the sets beside them take the roles that are read."""
    read: list[set[str]] = [set() for _ in outs]
    return [_watched(out, roles) for out, roles in zip(outs, read, strict=True)], read


def _watched(out: Out, read: set[str], view: str = "") -> Out:
    views = {name: _watched(each, read, f"{name}/") for name, each in out.views.items()}
    return Out(out.logits, Watched(out.taps, read, view), out.mask, Watched(views, read, VIEW))
