"""A whole step as one CUDA graph: the host starts one thing where it started a few hundred.

Forward, losses, backward, clipping and the optimizer are recorded once and replayed on every further batch, which is
copied to where the recorded one was. Whatever the host decides is decided once, so a step is watched first: one that
reads a number on the host, draws one there, or changes anything but the contents of tensors is not recorded, with the
reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdtool.engine import tree
from kdtool.engine.job import Job, Loaded
from kdtool.engine.plan import Planned
from kdtool.engine.processes import world_size
from kdtool.engine.step import map_out
from kdtool.losses import widened
from kdtool.method import Out, Terms

WARM = 3
"""Steps that are taken as ever before one is recorded: kernels are chosen and momenta made. The last is watched."""

_READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
"""Operations whose result the host waits for."""


@dataclass
class Given:
    """What differs from step to step.

    Attributes:
        loaded: the batch.
        epoch, progress: as in ``kdtool.method.Batch``, scalars on the device.
        teachers: the teachers' replayed outputs; None: the step computes them.
    """

    loaded: Loaded
    epoch: Tensor
    progress: Tensor
    teachers: list[Out] | None = None

    def tensors(self) -> list[Tensor]:
        """Return all of its tensors, always in the same order."""
        found = [*tree.tensors(self.loaded.inputs), self.loaded.labels, self.loaded.index, self.epoch, self.progress]
        for out in self.teachers or ():
            map_out(out, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
            found.extend([] if out.mask is None else [out.mask])
        return found

    def shapes(self) -> list[Any]:
        """Return what has to be the same for two of them to be taken alike."""
        return [(each.shape, each.dtype) for each in self.tensors()]

    def copied(self) -> Given:
        """Return it in memory of its own."""
        loaded = self.loaded
        own = Loaded(
            tree.apply(loaded.inputs, torch.clone), loaded.labels.clone(), loaded.index.clone(), loaded.view, None
        )
        teachers = None if self.teachers is None else [_own(out) for out in self.teachers]
        return Given(own, self.epoch.clone(), self.progress.clone(), teachers)


def _own(out: Out) -> Out:
    copied = map_out(out, torch.clone)
    return Out(copied.logits, copied.taps, None if out.mask is None else out.mask.clone(), copied.views)


Taken = tuple[Terms, Tensor]
"""A step's terms, and the flag of one that was not finite: scalars on the device."""

Take = Callable[[Given], Taken]


def why_not(job: Job, planned: Planned, recordable: bool, writes: bool) -> str | None:
    """Return why a stage's steps cannot be recorded, as far as that is known beforehand; None: they may.

    Args:
        job: what is trained.
        planned: the stage.
        recordable: a step of the optimizer is on the device as a whole.
        writes: batches are written by a network.
    """
    train = job.train
    reasons = {
        f"{job.device} records no steps": job.device.type != "cuda",
        f"{world_size()} processes wait for one another in it": world_size() > 1,
        "the scale of fp16 is found on the host": train.precision == "fp16",
        f"train.accumulate={train.accumulate} seeds each part of a batch anew": train.accumulate > 1,
        f"train.compile={train.compile} has graphs of its own": train.compile != "off",
        "train.checkpoint_activations keeps the state of a generator": train.checkpoint_activations,
        "train.on_nonfinite=skip asks at each step": train.on_nonfinite == "skip",
        f"optim.name={job.optim.name} keeps numbers on the host, such as its count of steps": not recordable,
        f"stage {planned.stage.name} updates networks in turn": bool(planned.stage.turns),
        "a network writes its batches": writes,
        "teachers speak of some rows only, other ones in each batch": getattr(job.train_batches, "taught", None)
        is not None,
    }
    return next((reason for reason, so in reasons.items() if so), None)


class Graphed:
    """Takes steps, of which it records one.

    Args:
        optimizer: of the steps. While they are taken its rates are tensors, whatever they are before and after.
        parts: all that trains.
        say: told why steps are not recorded.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parts: nn.Module, say: Callable[[str], None]):
        self.optimizer, self.parts, self.say = optimizer, parts, say
        self.seen = 0
        self.problem: str | None = None
        self.recorded: _Recorded | None = None
        device = optimizer.param_groups[0]["params"][0].device
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]

    def __call__(self, take: Take, given: Given) -> Taken:
        """Take a step.

        Args:
            take: does so, the same each time; of what it is given it may use tensors alone. It is not kept, for
                whoever it belongs to may have this object, and graphs are to go when their stage does.
            given: what differs from the step before.
        """
        with self._tensor_rates():
            self.seen += 1
            if self.recorded is None and self.problem is None and self.seen > WARM:
                self._record(take, given)
            if self.recorded is not None and self.recorded.takes(given):
                return self.recorded.replay(given)
            if self.seen != WARM:
                return take(given)
            with watched(self.parts) as problems:
                taken = take(given)
            if problems:
                self._give_up(problems[0])
            return taken

    def _record(self, take: Take, given: Given) -> None:
        late = any(not isinstance(out.logits, Tensor) for out in given.teachers or ())
        if late or given.loaded.rows is not None:
            what = "of the teacher's logits only some are kept" if late else "the samples are of unlike length"
            self._give_up(what)
            return
        try:
            self.recorded = _Recorded(take, given)
        except RuntimeError as error:  # what CUDA, or a library on it, cannot do while it records
            for parameter in self.parts.parameters():
                parameter.grad = None
            self._give_up((str(error).strip().splitlines() or [type(error).__name__])[0][:200])

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self.say(f"steps are not recorded as a CUDA graph: {problem}; going on without (train.graph=auto)")

    @contextmanager
    def _tensor_rates(self) -> Iterator[None]:
        groups = self.optimizer.param_groups
        keys: tuple[str, ...] = ("lr", "capturable")
        before = [{key: group[key] for key in keys if key in group} for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            rate.fill_(group["lr"])
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)


class _Recorded:
    """A recorded step.

    Raises:
        RuntimeError: it cannot be recorded; nothing was computed.
    """

    def __init__(self, take: Take, given: Given):
        self.given = given.copied()
        self.shapes = given.shapes()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            terms, bad = take(self.given)
            self.row = torch.stack([*map(widened, terms.values()), widened(bad.float())])
        self.names = list(terms)

    def takes(self, given: Given) -> bool:
        return given.shapes() == self.shapes

    def replay(self, given: Given) -> Taken:
        for place, tensor in zip(self.given.tensors(), given.tensors(), strict=True):
            place.copy_(tensor)
        self.graph.replay()
        *values, bad = self.row.clone().unbind()  # the next step writes there again, before anybody has read it
        return dict(zip(self.names, values, strict=True)), bad


@contextmanager
def watched(parts: nn.Module) -> Iterator[list[str]]:
    """Watch a step; the list takes, as it ends, what of it a graph would not repeat.

    Args:
        parts: modules that may keep something from one step to the next.
    """
    problems: list[str] = []
    before, drawn = _kept(parts), _drawn()
    with _Watch(problems):
        yield problems
    after = _kept(parts)
    changed = [name for name in after if name not in before or before[name] != after[name]]
    if changed:
        problems.append(f"{changed[0]} is another object, or number, after a step")
    if _drawn() != drawn:
        problems.append("it draws random numbers on the host")


def _kept(parts: nn.Module) -> dict[str, Any]:
    """Return what modules hold besides the contents of tensors: numbers and texts, and which tensors."""
    return {
        f"{type(module).__name__}.{key}" if not path else f"{path}.{key}": mark
        for path, module in parts.named_modules()
        for key, value in (*vars(module).items(), *module._buffers.items(), *module._parameters.items())
        if (mark := _mark(value)) is not None
    }


def _mark(value: Any) -> Any:
    if isinstance(value, Tensor):
        return id(value)
    if isinstance(value, (int, float, str)):
        return value
    return len(value) if isinstance(value, (list, set)) else None


def _drawn() -> tuple[Any, str]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), f"{kind} {hash(np.asarray(keys).tobytes())} {rest}"


class _Watch(TorchDispatchMode):
    """Notes what the host reads of the device, and what it computes, and draws, itself."""

    def __init__(self, problems: list[str]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.problems = problems

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [each for each in args if isinstance(each, Tensor)]
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if name in _READS or by_mask:
            self.problems.append(f"the host reads what {name} gives")
        elif isinstance(found, Tensor) and found.device.type == "cpu":
            if any(each.device.type != "cpu" for each in given):
                self.problems.append(f"the host waits for {name}, which copies from the device")
            elif torch.Tag.nondeterministic_seeded in func.tags:
                self.problems.append(f"the host draws random numbers by {name}")
        elif isinstance(found, Tensor) and any(each.device.type == "cpu" and each.ndim for each in given):
            self.problems.append(f"the host hands over what {name} copies to the device")
        return found
