"""The loop: stages, epochs, steps, checkpoints. Nothing here knows a method or an image."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.balance import gradient_norms, imbalance
from kdtool.engine.checkpoint import load_newest, save_checkpoint
from kdtool.engine.evaluate import predict
from kdtool.engine.freeze import Frozen
from kdtool.engine.job import Fitted, Job, Loaded
from kdtool.engine.log import EpochLog
from kdtool.engine.meters import Meters, total
from kdtool.engine.optim import build_optimizer, build_schedule
from kdtool.engine.plan import Planned, plan_stages
from kdtool.engine.precision import Precision
from kdtool.engine.signals import StopRequest
from kdtool.engine.step import Step, teach
from kdtool.errors import InputError
from kdtool.method import Batch, Terms
from kdtool.randomness import seed_torch
from kdtool.report.events import Reporter


def fit(job: Job, reporter: Reporter, stop: StopRequest) -> Fitted:
    """Train until the budget is spent, going on from the folder's newest sound checkpoint where there is one.

    Args:
        job: what to train.
        reporter: who is told.
        stop: asked after each step; a request is met with a checkpoint and ``Interrupted``.

    Raises:
        RunError: a loss that is not finite.
        Interrupted: a signal; a checkpoint was written.
    """
    return _Trainer(job, reporter, stop).fit()


class _Trainer:
    def __init__(self, job: Job, reporter: Reporter, stop: StopRequest):
        self.job, self.reporter, self.stop = job, reporter, stop
        self.precision = Precision(job.train.precision, job.device)
        layout = torch.channels_last if job.train.channels_last else torch.contiguous_format
        step = Step(job.student, job.method, job.peers, job.task.hard_loss, self.precision)
        self.step = step.to(job.device, self.precision.dtype)
        self.step.to(memory_format=layout)
        self.teachers = [t.to(job.device, self.precision.dtype).eval().requires_grad_(False) for t in job.teachers]
        for teacher in self.teachers:
            # The layout decides the kernels, and so the last bits: one just trained must not differ from one reloaded.
            teacher.to(memory_format=layout)
        self.plan = plan_stages(job.method, job.train.epochs, job.train.task_weight)
        self.ema = self._average() if job.train.ema else None
        self.log = EpochLog(job.folder / "metrics.jsonl")
        self.at = {"stage": 0, "epoch": 0, "step": 0}
        self.updates = 0  # steps of the student over all stages
        self.best: dict[str, Any] | None = None
        self.last: dict[str, Any] = {"epoch": 0, "val": None}
        self.optimizer_state: dict[str, Any] | None = None
        self.meters_state: dict[str, Any] | None = None
        self.began = time.monotonic()

    def _average(self) -> Any:
        from timm.utils import ModelEmaV3

        return ModelEmaV3(self.step.student, decay=self.job.train.ema, use_warmup=True)

    # --- the loop -------------------------------------------------------------------------------------------

    def fit(self) -> Fitted:
        self._resume()
        self.log.keep(self.at)
        self.reporter.phase(self.job.phase)
        while self.at["stage"] < len(self.plan):
            self._run_stage(self.plan[self.at["stage"]])
            self.at = {"stage": self.at["stage"] + 1, "epoch": 0, "step": 0}
            self._save()
        self.stop.check(self.job.resume_command)
        best = self.best or {**self.last, "state": _weights(self._result_network())}
        return Fitted(
            state=best["state"],
            best={"epoch": best["epoch"], "val": best["val"]},
            last=self.last,
            seconds=time.monotonic() - self.began,
            steps=self.updates,
        )

    def _run_stage(self, planned: Planned) -> None:
        job, stage = self.job, planned.stage
        self.step.stage = stage
        self.frozen = Frozen(self.step, stage, lambda: self._dry_loss(planned))
        self.optimizer = build_optimizer(job.optim, self.step)
        self.schedule = build_schedule(job.schedule, self.optimizer, planned.epochs, job.train_batches.steps)
        if self.optimizer_state is not None:
            _load_optimizer(self.optimizer, self.optimizer_state)
            self.optimizer_state = None
        self.reporter.stage(stage.name, planned.epochs, job.train_batches.steps, self.at["epoch"])
        for epoch in range(self.at["epoch"], planned.epochs):
            self._run_epoch(planned, epoch)
            self.at = {"stage": self.at["stage"], "epoch": epoch + 1, "step": 0}
            if (epoch + 1) % job.checkpoint.every_epochs == 0 and epoch + 1 < planned.epochs:
                self._save()

    def _run_epoch(self, planned: Planned, epoch: int) -> None:
        job, start, began = self.job, self.at["step"], time.monotonic()
        meters = Meters(planned.stage.name)
        if self.meters_state is not None:
            meters.load(self.meters_state)
            self.meters_state = None
        self.frozen.train_mode()
        seen = 0
        for step, batch in enumerate(job.train_batches.epoch(planned.first_epoch + epoch, start), start):
            at = epoch * job.train_batches.steps + step
            # Once an epoch: it costs a backward a term.
            balance = meters.norms if step == 0 and "student" in planned.stage.trains else None
            meters.add(at, self._train_step(batch, planned, epoch, at, balance))
            seen += len(batch.index)
            done = step + 1
            if done % job.train.log_every == 0 or done == job.train_batches.steps:
                means = meters.read()
                self.reporter.step(means, done, job.train_batches.steps, seen / (time.monotonic() - began))
            if self.stop.signal is not None:
                meters.read()
                self.at = {"stage": self.at["stage"], "epoch": epoch, "step": done}
                self._interrupt(meters)
        self._finish_epoch(planned, epoch, meters, time.monotonic() - began, seen)

    def _train_step(
        self, loaded: Loaded, planned: Planned, epoch: int, step: int, balance: Terms | None = None
    ) -> Terms:
        """One update of the weights; returns the terms, summed over micro-batches.

        Args:
            balance: takes the norm of each term's gradient, of the first micro-batch.
        """
        job, scaler = self.job, self.precision.scaler
        self.schedule.step_update(step)
        progress = step / (planned.epochs * job.train_batches.steps)
        terms: Terms = {}
        pieces = min(job.train.accumulate, len(loaded.index))
        micro_batches = zip(
            loaded.inputs.chunk(pieces), loaded.labels.chunk(pieces), loaded.index.chunk(pieces), strict=True
        )
        seen: list[Batch] = []
        for micro, (inputs, labels, index) in enumerate(micro_batches):
            seed_torch("step", job.train.seed, planned.stage.name, step, micro, 0)
            share = len(index) / len(loaded.index)
            parts, batch = self._forward(inputs, labels, index, epoch, progress)
            if balance is not None and micro == 0:
                balance.update(gradient_norms(parts, self.step.student.parameters()))
            parts = {name: share * term for name, term in parts.items()}
            scaler.scale(total(parts)).backward()
            terms = {name: terms[name] + term.detach() if terms else term.detach() for name, term in parts.items()}
            seen.append(batch)
        if job.train.clip_grad is not None:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.step.parameters(), job.train.clip_grad)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if "student" in planned.stage.trains:
            self.updates += 1
            if self.ema is not None:
                self.ema.update(self.step.student, step=self.updates)
        if job.method is not None:
            with torch.no_grad():
                for batch in seen:
                    job.method.after_step(batch)
        return terms

    def _forward(
        self, inputs: Tensor, labels: Tensor, index: Tensor, epoch: int, progress: float
    ) -> tuple[Terms, Batch]:
        inputs = inputs.to(self.precision.dtype)
        teachers = teach(self.teachers, inputs, self.precision)
        result: tuple[Terms, Batch] = self.step(inputs, labels, index, teachers, epoch, progress)
        return result

    def _dry_loss(self, planned: Planned) -> Tensor:
        """The loss of the stage's first batch; shows which parameters get a gradient."""
        batch = next(iter(self.job.train_batches.epoch(planned.first_epoch)))
        seed_torch("dry", self.job.train.seed, planned.stage.name)
        terms, _ = self._forward(batch.inputs, batch.labels, batch.index, 0, 0.0)
        odd = [name for name, term in terms.items() if not isinstance(term, Tensor) or term.ndim != 0]
        if odd or not terms:
            raise InputError(
                f"stage {planned.stage.name!r}: a loss must return scalar tensors by name; {odd or 'none'} returned."
            )
        return total(terms)

    # --- after an epoch ---------------------------------------------------------------------------------------

    def _finish_epoch(self, planned: Planned, epoch: int, meters: Meters, seconds: float, seen: int) -> None:
        job = self.job
        means, balance = meters.read(), meters.shares()
        lopsided = imbalance(planned.stage.name, balance)
        if lopsided and epoch == 0:
            self.reporter.warn(lopsided)
        metrics = self._validate() if planned.stage.task_weight or planned.selects else None
        number = planned.first_epoch + epoch + 1
        record = {
            "phase": job.phase,
            "stage": planned.stage.name,
            "epoch": epoch + 1,
            "epochs": planned.epochs,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train": means,
            "gradient_share": {name: round(share, 5) for name, share in balance.items()},
            "val": metrics,
            "seconds": round(seconds, 3),
            "images_per_s": round(seen / seconds, 1),
        }
        self.log.write({"stage": self.at["stage"], "epoch": epoch}, record)
        self.reporter.epoch(record)
        if planned.selects:
            self.last = {"epoch": number, "val": metrics}
            # Of equals the later one, which has seen more.
            if job.train.select == "best" and metrics and metrics["top1"] >= (self.best or self.last)["val"]["top1"]:
                self.best = {**self.last, "state": _weights(self._result_network())}

    def _validate(self) -> dict[str, Any] | None:
        if self.job.val_batches is None:
            return None
        logits, labels = predict(self._result_network(), self.job.val_batches, self.precision)
        return self.job.task.metrics(logits, labels)

    def _result_network(self) -> nn.Module:
        network: nn.Module = self.step.student if self.ema is None else self.ema.module
        return network

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _save(self, meters: Meters | None = None) -> None:
        inside = self.at["epoch"] > 0 or self.at["step"] > 0
        state = {
            "key": self.job.key,
            "place": self.at,
            "updates": self.updates,
            "step": self.step.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict() if inside else None,
            "scaler": self.precision.scaler.state_dict(),
            "meters": meters.state() if meters is not None else None,
            "best": self.best,
            "last": self.last,
        }
        name = "step-" + "-".join(f"{self.at[key]:06d}" for key in ("stage", "epoch", "step"))
        save_checkpoint(self.job.folder / "checkpoints", name, state, self.job.checkpoint.keep)

    def _resume(self) -> None:
        state, passed_over = load_newest(self.job.folder / "checkpoints")
        for problem in passed_over:
            self.reporter.warn(problem)
        if state is None:
            return
        if state["key"] != self.job.key:
            raise InputError(f"{self.job.folder} holds checkpoints of another recipe: use another --out.")
        self.at, self.updates = state["place"], state["updates"]
        self.step.load_state_dict(state["step"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.optimizer_state, self.meters_state = state["optimizer"], state["meters"]
        self.best, self.last = state["best"], state["last"]
        if self.at["stage"] < len(self.plan):
            where = f"stage {self.plan[self.at['stage']].stage.name}, epoch {self.at['epoch'] + 1}"
            self.reporter.note(f"{self.job.phase}: going on from {where}, step {self.at['step']}")

    def _interrupt(self, meters: Meters) -> None:
        self._save(meters)
        self.stop.check(self.job.resume_command)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of the plain network's weights inside a tapped one."""
    plain = getattr(network, "module", network)
    return {name: tensor.detach().cpu().clone() for name, tensor in plain.state_dict().items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    optimizer.load_state_dict(copy.deepcopy(state))
    # Moments keep their parameter's memory layout, so that a resumed step runs the very same kernels.
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
