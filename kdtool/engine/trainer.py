"""The loop: stages, epochs, steps, checkpoints. Nothing here knows a method or a task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdtool.engine.by_input import check_whole
from kdtool.engine.evaluate import evaluate, evaluate_predictions
from kdtool.engine.freeze import Frozen
from kdtool.engine.gradient_norms import imbalance
from kdtool.engine.job import Fitted, Job, Loaded
from kdtool.engine.launch import as_tensors, callable_step, share_norms
from kdtool.engine.log import METRICS, EpochLog
from kdtool.engine.memory import agreeing, check_split, together, too_large
from kdtool.engine.meters import BadStep, Meters, total
from kdtool.engine.plan import Planned, plan_stages
from kdtool.engine.precision import Precision, let_tf32
from kdtool.engine.prefetch import Prefetcher
from kdtool.engine.processes import copy_from_main, is_main, largest, world_size
from kdtool.engine.recompute import recompute_blocks
from kdtool.engine.saving import Progress, Saver, load_optimizer, weights_of
from kdtool.engine.shards import is_sharded, shard
from kdtool.engine.signals import StopRequest
from kdtool.engine.smallest import told_of_single
from kdtool.engine.step import TASK, Step
from kdtool.engine.taught import Taught
from kdtool.engine.teaching import FrozenTeachers, Teaching, watched
from kdtool.engine.tree import cast
from kdtool.engine.update import StepResult, Updater
from kdtool.engine.withheld import check_withheld
from kdtool.errors import InputError, RunError
from kdtool.events import Reporter
from kdtool.randomness import seed_torch
from kdtool.system import strict_json

T = TypeVar("T")

NON_FINITE = "nonfinite.jsonl"
"""File in a run's folder that lists steps which were not finite, with their samples."""


def fit(job: Job, reporter: Reporter, stop: StopRequest) -> Fitted:
    """Train until the budget is spent, going on from the folder's newest sound checkpoint where there is one.

    Args:
        job: what to train.
        reporter: who is told.
        stop: asked after each step; a request is met with a checkpoint and ``Interrupted``.

    Raises:
        RunError: a loss that is not finite, or no memory for a batch.
        Interrupted: a signal; a checkpoint was written.
    """
    return _Trainer(job, reporter, stop).fit()


class _Trainer:
    def __init__(self, job: Job, reporter: Reporter, stop: StopRequest):
        self.job, self.reporter, self.stop = job, reporter, stop
        self.precision = Precision(job.train.precision, job.device)
        let_tf32(job.train.tf32)
        layout = torch.channels_last if job.train.channels_last else torch.contiguous_format
        step = Step(job.student, job.method, job.peers, job.objective.hard_loss, self.precision)
        if job.sync_bn:
            share_norms(step, job.device)
        if job.shard:
            for network in (step.student, *step.peers):
                shard(network.to(self.precision.dtype), job.device)
        self.step = step.to(job.device, self.precision.dtype)
        if not is_sharded(step):
            self.step.to(memory_format=layout)
        self.shipped: nn.Module = job.ship() if job.ship is not None and not is_sharded(step) else step.student
        if job.train.checkpoint_activations:
            for network in (step.student, *step.peers):
                recompute_blocks(network)
        check_split(job.train.accumulate, step.couples_samples, job.phase)
        check_whole(step.student, job.train.accumulate, step.couples_samples)
        names = job.teacher_precisions or [job.train.precision] * len(job.teachers)
        frozen = FrozenTeachers(job.teachers, [Precision(name, job.device) for name in names], layout)
        self.teaching = Teaching(frozen, job.replay, reporter.note)
        self.plan = plan_stages(job.method, job.train.epochs, job.train.task_weight, job.schedule.epochs)
        self.ema = self._average() if job.train.ema else None
        self.prefetched = Prefetcher(job.device)
        self.log = EpochLog(job.folder / METRICS)
        self.at = Progress(pieces=job.train.accumulate)
        averages = {"ema": self.ema.module} if self.ema is not None else {}
        keeps = job.writer is not None and any(planned.stage.replay for planned in self.plan)
        written = {"written": job.writer} if keeps else {}
        self.saver = Saver(job, {"step": self.step, "scaler": self.precision.scaler, **averages, **written})
        self.found: dict[str, Any] | None = None  # the checkpoint to go on from
        self.began = time.monotonic()

    def _average(self) -> Any:
        from timm.utils import ModelEmaV3

        return ModelEmaV3(self.shipped, decay=self.job.train.ema, use_warmup=True)

    # --- the loop -------------------------------------------------------------------------------------------

    def fit(self) -> Fitted:
        self._resume()
        if is_main():
            self.log.keep({"stage": self.at.stage, "epoch": self.at.epoch})
        self.reporter.phase(self.job.phase)
        while self.at.stage < len(self.plan):
            self._run_stage(self.plan[self.at.stage])
            self.at.move(self.at.stage + 1)
            self.saver.save(self.at, None, None)
        self.stop.check(self.job.resume_command)
        last = weights_of(self._result_network())
        best = self.at.best or {**self.at.last, "state": last}
        return Fitted(
            state=best["state"],
            last_state=last,
            best={"epoch": best["epoch"], "val": best["val"]},
            last=self.at.last,
            seconds=time.monotonic() - self.began,
            steps=self.at.updates,
        )

    def _run_stage(self, planned: Planned) -> None:
        job, stage = self.job, planned.stage
        self.step.stage = stage
        self.teaching.run_live(silent=stage.teacher_writes)
        first = next(iter(job.train_batches.epoch(planned.first_epoch)))

        def try_out(call: Any) -> Tensor:
            return self._dry_loss(call, planned, first)

        self.frozen = self._with_room(
            first, lambda: Frozen(self.step, stage, lambda: try_out(self.step), job.train.freeze_bn)
        )
        self.teaching.enter(stage.name, self.read)
        call = callable_step(self.step, job.train.compile, job.device, try_out, self.reporter.warn)
        follow = following(self.ema, self.shipped)
        self.update = Updater(
            job, self.step, call, self.teaching, planned, follow, self.frozen.moving, self.reporter.note
        )
        said = self.update.writing.sentence()
        if said:
            self.reporter.note(f"stage {stage.name}: {said}")
        if self.found is not None and self.found["optimizer"] is not None:
            load_optimizer(self.update.optimizer, self.found["optimizer"])
        self._look_first()
        self.reporter.stage(stage.name, planned.epochs, job.train_batches.steps, self.at.epoch)
        for epoch in range(self.at.epoch, planned.epochs):
            if self._waited_enough(planned):
                break
            self._run_epoch(planned, epoch)
            self.at.move(self.at.stage, epoch + 1)
            if (epoch + 1) % job.checkpoint.every_epochs == 0 and epoch + 1 < planned.epochs:
                self.saver.save(self.at, self.update.optimizer, None)

    def _look_first(self) -> None:
        """Validate the student as a stage begins whose batches depend on how that changes."""
        if not self.update.writing.varies or self.at.epoch or self.at.step:
            return
        metrics = self._validate()
        if metrics is None or self.job.method is None:
            raise InputError(
                "the share of the batches that the student writes follows from its validation, and no samples are held "
                "out: set data.val_fraction, or give the share by data.on_policy."
            )
        self.job.method.after_validation(metrics)

    def _waited_enough(self, planned: Planned) -> bool:
        """Tell whether no better epoch came for so long; it follows from what a checkpoint holds."""
        patience, at = self.job.train.patience, self.at
        if patience is None or not planned.selects or at.best is None:
            return False
        waited = at.last["epoch"] - at.best["epoch"]
        if waited >= patience:
            self.reporter.note(
                f"{self.job.phase}: ends at epoch {at.last['epoch']}, for none of the last {waited} was better than "
                f"epoch {at.best['epoch']} (train.patience={patience}); its schedule was made for {planned.epochs}"
            )
        return bool(waited >= patience)

    def _run_epoch(self, planned: Planned, epoch: int) -> None:
        job, start, steps, began = self.job, self.at.step, self.job.train_batches.steps, time.monotonic()
        meters = Meters(planned.stage.name)
        if self.found is not None and self.found["meters"] is not None:
            meters.load(self.found["meters"])
        self.found = None
        self.frozen.train_mode()
        seen = 0
        batches = self.prefetched(job.train_batches.epoch(planned.first_epoch + epoch, start))
        for number, batch in enumerate(batches, start):
            at, done = epoch * steps + number, number + 1
            # Once an epoch: it costs a backward a term.
            result = self._take_step(batch, planned, epoch, at, measure_norms=number == 0)
            meters.norms = result.norms or meters.norms
            meters.add(at, result.terms, result.bad, batch.index, result.withheld)
            seen += batch.samples * world_size()
            logged = done % job.train.log_every == 0 or done == steps
            if logged:
                self._read(meters)
                self.reporter.step(meters.means(), done, steps, seen / (time.monotonic() - began))
            if logged or world_size() == 1:
                self._stop_if_asked(meters, epoch, done)
            every = job.checkpoint.every_steps
            if every is not None and done % every == 0 and done < steps:
                self._save_inside(meters, epoch, done)
        self._finish_epoch(planned, epoch, meters, time.monotonic() - began, seen)

    def _take_step(self, loaded: Loaded, planned: Planned, epoch: int, at: int, measure_norms: bool) -> StepResult:
        measure_norms = measure_norms and "student" in planned.stage.trains
        while True:
            try:
                result = self.update(loaded, epoch, at, self.at.updates, self.at.pieces, measure_norms)
                break
            except torch.OutOfMemoryError as error:
                self._split_further(loaded.samples, error)
        self.at.updates += "student" in planned.stage.trains
        return result

    def _split_further(self, batch: int, error: BaseException) -> None:
        """Halve the micro-batch after a step that found no memory, or say what would help."""
        self.at.pieces = too_large(self.job, batch, self.at.pieces, self.step.couples_samples, error)
        check_whole(self.step.student, self.at.pieces, self.step.couples_samples)
        for parameter in self.step.parameters():
            parameter.grad = None
        self.reporter.warn(
            f"no memory for the batch: going on with micro-batches of {-(-batch // self.at.pieces)} samples, "
            "the global batch as it was. Batch norms see the smaller ones."
        )

    def _with_room(self, batch: Loaded, attempt: Callable[[], T]) -> T:
        """Return what an attempt at a batch gives, made with ever smaller parts of it until there is memory."""
        while True:
            try:
                return together(attempt, agreeing(self.job, self.step.couples_samples))
            except torch.OutOfMemoryError as error:
                self._split_further(batch.samples, error)

    def _dry_loss(self, call: Any, planned: Planned, batch: Loaded) -> Tensor:
        """The loss of the stage's first batch; shows which parameters get a gradient and what is read of teachers."""
        batch = batch.first(-(-batch.samples // self.at.pieces))
        inputs = cast(batch.inputs, self.precision.dtype)
        teachers = self.teaching(replace(batch, inputs=inputs))
        if call is self.step:  # compiled code would be compiled anew for dictionaries that are not watched
            teachers, self.read = watched(teachers)
        seed_torch("dry", self.job.train.seed, planned.stage.name)
        with told_of_single(f"stage {planned.stage.name!r}", batch.samples):
            when = (0, 0.0) if call is self.step else as_tensors(0, 0.0, batch.index, self.precision.dtype)
            taught = None if batch.taught is None else Taught(batch.taught)
            terms, _ = call(inputs, batch.labels, batch.index, teachers, *when, 1.0, taught)
        odd = [name for name, term in terms.items() if not isinstance(term, Tensor) or term.ndim != 0]
        if odd or not terms:
            raise InputError(
                f"stage {planned.stage.name!r}: a loss must return scalar tensors by name; {odd or 'none'} returned."
            )
        return total(terms)

    # --- what the host hears of ---------------------------------------------------------------------------------

    def _read(self, meters: Meters) -> None:
        """Fetch the steps' terms; stop at one that was not finite, or at too many where they are skipped."""
        withheld = meters.withheld
        found = meters.read()
        self.at.withheld += meters.withheld - withheld
        for bad in found:
            self.at.skipped += 1
            if is_main():
                self.job.folder.mkdir(parents=True, exist_ok=True)
                with (self.job.folder / NON_FINITE).open("a") as stream:
                    terms = {name: value if math.isfinite(value) else str(value) for name, value in bad.terms.items()}
                    stream.write(strict_json.dumps({**vars(bad), "terms": terms}) + "\n")
            cfg = self.job.train
            if cfg.on_nonfinite == "stop" or self.at.skipped > cfg.max_skipped:
                raise RunError(self._not_finite(bad))
            self.reporter.warn(f"stage {bad.stage}, step {bad.step}: not finite, skipped ({_shown(bad)})")

    def _not_finite(self, bad: BadStep) -> str:
        names = [name for name, value in bad.terms.items() if value != value or abs(value) == float("inf")]
        what = f"term {' and '.join(names)}" if names else "a gradient"
        many, other = "", "or train.on_nonfinite=skip"
        if self.job.train.on_nonfinite == "skip":
            many = f" It is step number {self.at.skipped} of that kind; train.max_skipped={self.job.train.max_skipped}."
            other = "or raise train.max_skipped"
        return (
            f"the loss is not finite: {what} in stage {bad.stage}, step {bad.step} ({_shown(bad)}).{many} The step's "
            f"update was withheld; its samples are listed in {self.job.folder / NON_FINITE}. "
            f"Lower --lr, set train.clip_grad=1, use --precision fp32, {other}."
        )

    def _stop_if_asked(self, meters: Meters, epoch: int, done: int) -> None:
        asked = largest(self.stop.signal or 0)
        if asked:
            self.stop.signal = asked
            self._save_inside(meters, epoch, done)
            self.stop.check(self.job.resume_command)

    def _save_inside(self, meters: Meters, epoch: int, done: int) -> None:
        self._read(meters)
        self.at.move(self.at.stage, epoch, done)
        self.saver.save(self.at, self.update.optimizer, meters)

    def _finish_epoch(self, planned: Planned, epoch: int, meters: Meters, seconds: float, seen: int) -> None:
        job = self.job
        self._read(meters)
        check_withheld(planned, epoch, self.at, self.job.train_batches.steps, self.reporter.warn)
        shares = meters.shares()
        learnt = shares if job.objective.num_classes else {name: each for name, each in shares.items() if name != TASK}
        lopsided = imbalance(planned.stage.name, learnt)
        if lopsided and epoch == 0:
            self.reporter.warn(lopsided)
        writing = self.update.writing
        share = {"on_policy": round(writing.share(), 5)} if writing.varies else {}  # as it was
        looks = bool(planned.stage.task_weight) or planned.selects or writing.varies
        metrics = self._validate() if looks else None
        if metrics is not None and job.method is not None:
            job.method.after_validation(metrics)
        predictions = self._validate_predictions() if looks else {}
        number = planned.first_epoch + epoch + 1
        record = {
            "phase": job.phase,
            "stage": planned.stage.name,
            "epoch": epoch + 1,
            "epochs": planned.epochs,
            "lr": self.update.optimizer.param_groups[0]["lr"],
            "train": meters.means(),
            "gradient_share": {name: round(share, 5) for name, share in shares.items()},
            "skipped": meters.skipped,
            "val": metrics,
            **({"predictions": predictions} if predictions else {}),
            **share,
            "seconds": round(seconds, 3),
            "samples_per_s": round(seen / seconds, 1),
        }
        if is_main():
            self.log.write({"stage": self.at.stage, "epoch": epoch}, record)
        self.reporter.epoch(record)
        if planned.selects:
            self._select(number, metrics)
        if epoch + 1 == planned.epochs:
            self.at.withheld = 0

    def _select(self, number: int, metrics: dict[str, Any] | None) -> None:
        at = self.at
        at.last = {"epoch": number, "val": metrics}
        metric = self.job.objective.metric
        # Of equals the later one, which has seen more.
        if (
            self.job.train.select == "best"
            and metrics
            and metric.at_least_as_good(metrics[metric.key], (at.best or at.last)["val"][metric.key])
        ):
            at.best = {**at.last, "state": weights_of(self._result_network())}

    def _validate(self) -> dict[str, Any] | None:
        network = self._result_network()
        # Running statistics are each process's own while training; what counts is what is saved.
        copy_from_main(network)
        if self.job.val_batches is None:
            return None
        return evaluate(network, self.job.val_batches, self.precision, self.job.objective.meter())

    def _validate_predictions(self) -> dict[str, dict[str, Any]]:
        if self.job.val_batches is None:
            return {}
        copy_from_main(self.step)
        method, meter = self.job.method, self.job.objective.meter
        return evaluate_predictions(self.step.student, method, self.job.val_batches, self.precision, meter)

    def _result_network(self) -> nn.Module:
        network: nn.Module = self.shipped if self.ema is None else self.ema.module
        return network

    def _resume(self) -> None:
        self.found = self.saver.load(self.reporter)
        if self.found is None:
            return
        self.at = Progress(**self.found["progress"])
        if self.at.stage < len(self.plan):
            where = f"stage {self.plan[self.at.stage].stage.name}, epoch {self.at.epoch + 1}"
            self.reporter.note(f"{self.job.phase}: going on from {where}, step {self.at.step}")


def following(ema: Any, network: nn.Module) -> Callable[[int], None]:
    """Return what brings an average, if any, up to so many updates of a network.

    It holds no trainer: one that held itself would keep its networks, and the files that they are read from, until a
    collection of garbage.
    """
    return lambda updates: None if ema is None else ema.update(network, step=updates)


def _shown(bad: BadStep) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in bad.terms.items())
