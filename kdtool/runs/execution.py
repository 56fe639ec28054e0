"""A setting at work in a place: teachers made ready, the baseline and the student trained, the test split looked at."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool.system import strict_json
from kdtool.cache.open import CachedTeacher, Context, open_or_build
from kdtool.cache.replay import Replayed
from kdtool.engine.evaluate import evaluate_in_fp32
from kdtool.engine.job import Fitted, Job, Replay
from kdtool.engine.precision import Precision
from kdtool.engine.processes import is_main, wait_for_all
from kdtool.engine.shards import shard
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from kdtool.runs.estimate import asked, counted
from kdtool.runs.folder import RESULT, resume_command
from kdtool.runs.result import cost_of, origin_of, outcome
from kdtool.runs.resume import training_key
from kdtool.runs.setting import Setting
from kdtool.runs.shipping import shipped
from kdtool.runs.teachers import Preparation, check_teacher, prepare
from kdtool.runs.verdict import better_teacher, guessed, like_guessing
from kdtool.system.disk import write_whole


@dataclass
class Execution:
    """A run under way.

    Args:
        setting: what is run.
        reporter: who is told.
        folder: where the run goes; None: nothing is written, and only the teachers can be made ready.
        resume_folder: what a stopped run is resumed by, where that is not ``folder``: a link's whole chain.
        chain: folders of the runs that made this one's teacher.
        accept_changes: go on from a checkpoint of another recipe.
        seconds: what each part took.
    """

    setting: Setting
    reporter: Reporter
    folder: Path | None = None
    resume_folder: Path | None = None
    chain: list[str] = field(default_factory=list)
    accept_changes: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Prepare teachers, train the baseline and the student, test, write ``student/`` and ``result.json``."""
        assert self.folder is not None
        began = time.monotonic()
        data, nets = self.setting.data, self.setting.networks
        data.list_faults(self.folder)
        costs = [cost_of(built) for built in (shipped(self.setting), *nets.teachers)]
        if is_main():
            self.reporter.outlook(counted(self.setting).parts(self.setting, *asked(self.setting)))
        self.ready_teachers(stop)
        self.seconds["teachers"] = time.monotonic() - began
        teacher_val = self.check_teachers()
        replay = self.replay(stop)
        baseline = self._train_baseline(stop) if self.setting.recipe.baseline and self.setting.method else None
        if baseline is not None and baseline.best["val"] is not None:
            self._compare_with_baseline(teacher_val, baseline.best["val"])
        fitted = self._train_student(stop, replay)
        if faults := data.faults():
            self.reporter.warn(faults)
        result = outcome(self.setting, costs, self.folder, fitted, baseline, self.chain, self.seconds)
        self._warn_of_guessing(result)
        result["seconds"]["total"] = round(time.monotonic() - began, 1)
        if is_main():
            write_whole(self.folder / RESULT, strict_json.dumps(result, indent=2) + "\n")
        wait_for_all()
        self.reporter.done(result)
        return result

    def _warn_of_guessing(self, result: dict[str, Any]) -> None:
        """Say a student that learnt nothing where warnings are said, whatever becomes of the table."""
        metric, samples = self.setting.objective.metric, len(self.setting.data.test.labels)
        value = result["test"]["student"][metric.key]
        if guessed(metric, value, result["chance"], samples):
            shown = like_guessing(metric, value, result["chance"], result["data"]["test"], result["unit"])
            self.reporter.warn(f"the student cannot be told from guessing: {shown}")

    @property
    def resume_command(self) -> str:
        folder = self.resume_folder or self.folder
        return resume_command(folder) if folder is not None else "the same command"

    # --- teachers -------------------------------------------------------------------------------------------------

    def ready_teachers(self, stop: StopRequest) -> None:
        """Give the teachers the weights they teach with; an online method's peers have nothing to get ready."""
        setting = self.setting
        if setting.online:
            return
        prep = Preparation(setting, self.reporter, stop, self.resume_command)
        for section, built in zip(setting.recipe.teacher, setting.teachers, strict=True):
            prepare(section, built, prep)
            stop.check(self.resume_command)
        if setting.recipe.parallel.shard == "fsdp":
            # In the type that they teach in: what is divided stays as it is.
            for net, precision in zip(setting.networks.teacher_nets, setting.teacher_precisions, strict=True):
                shard(net.to(Precision(precision, setting.device).dtype), setting.device)

    def cached_teachers(self, stop: StopRequest) -> list[CachedTeacher]:
        """Return the ready teachers as the cache of outputs knows them."""
        setting, nets = self.setting, self.setting.networks
        context = Context(
            setting.recipe, setting.task, setting.data, setting.transfer_set, setting.train_batches, setting.device,
            self.reporter, stop, self.resume_command,
        )  # fmt: skip
        each = zip(nets.teachers, nets.teacher_nets, setting.teacher_precisions, nets.shapes[1], strict=True)
        return [CachedTeacher(context, number, *about) for number, about in enumerate(each)]

    def replay(self, stop: StopRequest) -> Replayed | None:
        """Return the ready teachers' outputs from a cache, as ``cache.mode`` wants it; None: they are computed."""
        setting = self.setting
        if setting.recipe.cache.mode == "off" or not setting.teachers:
            return None
        if setting.online:
            self.reporter.note("no outputs are kept or replayed: the peers learn, so that theirs change")
            return None
        if setting.data.stream is not None:
            self.reporter.note("no outputs are kept or replayed: the samples of a stream pass by")
            return None
        began = time.monotonic()
        found = open_or_build(self.cached_teachers(stop), setting.recipe.cache.mode, self.reporter)
        self.seconds["cache"] = time.monotonic() - began
        return found

    def check_teachers(self) -> list[dict[str, Any]]:
        """Return the ready teachers' metrics on the validation split, or a part of the training set.

        Raises:
            InputError: one is at chance level.
        """
        setting = self.setting
        if setting.online or not setting.teachers:
            return []
        split, where = setting.checked_on()
        metric, batches, found = setting.objective.metric, setting.batches(split), []
        each = zip(setting.recipe.teacher, setting.teachers, setting.networks.teacher_nets, strict=True)
        for number, (section, built, net) in enumerate(each):
            own = setting.teacher_batches(number, split, batches)
            metrics = evaluate_in_fp32(net, own, setting.device, setting.objective.meter())
            value = metrics[metric.key]
            apart = " (of rows of its own, not the student's)" if built.apart else ""
            shown = f"{metric.label} {_shown(metric.percent, value)}{apart}"
            self.reporter.note(f"teacher {built.name}: {shown} on {len(split)} {where} {setting.task.unit}")
            check_teacher(section, built, value, setting.objective, len(split.labels), self.reporter.warn)
            found.append(metrics)
        return found

    def _compare_with_baseline(self, teacher_val: list[dict[str, Any]], baseline: dict[str, Any]) -> None:
        metric = self.setting.objective.metric
        sections = self.setting.recipe.teacher
        for built, section, metrics in zip(self.setting.teachers, sections, teacher_val, strict=False):
            if not built.apart and not metric.at_least_as_good(metrics[metric.key], baseline[metric.key]):
                theirs, alone = (_shown(metric.percent, each[metric.key]) for each in (metrics, baseline))
                self.reporter.warn(
                    f"teacher {built.name} ({metric.label} {theirs}) is below the student trained alone ({alone}): "
                    f"it has little to teach. {better_teacher(origin_of(built), section)}"
                )

    # --- trainings ------------------------------------------------------------------------------------------------

    def _train_baseline(self, stop: StopRequest) -> Fitted:
        assert self.folder is not None
        alone = self.setting.task.student(self.setting.recipe, self.setting.data)
        began = time.monotonic()
        fitted = fit(self._job("baseline", alone.tapped(), self.folder / "baseline"), self.reporter, stop)
        self.seconds["baseline"] = time.monotonic() - began
        return fitted

    def _train_student(self, stop: StopRequest, replay: Replayed | None) -> Fitted:
        assert self.folder is not None
        began = time.monotonic()
        fitted = fit(self.student_job(self.folder, replay), self.reporter, stop)
        self.seconds["student"] = time.monotonic() - began
        return fitted

    def student_job(self, folder: Path, replay: Replay | None) -> Job:
        """Return the student's training by the method, with the teachers as they are now."""
        setting = self.setting
        nets, online = setting.networks.teacher_nets, setting.online
        return dataclasses.replace(
            self._job("student", setting.networks.student_net, folder),
            method=setting.method,
            ship=lambda: shipped(setting).tapped(),
            teachers=[] if online else nets,
            peers=nets if online else [],
            teacher_precisions=[] if online else setting.teacher_precisions,
            replay=replay,
            writer=setting.task.writer(setting.data, setting.recipe, setting.student),
        )

    def _job(self, phase: str, student: Any, folder: Path) -> Job:
        setting, recipe = self.setting, self.setting.recipe
        return Job(
            phase=phase,
            student=student,
            objective=setting.objective,
            train_batches=setting.train_batches,
            val_batches=setting.val_batches,
            train=recipe.train,
            optim=recipe.optim,
            schedule=recipe.schedule,
            checkpoint=recipe.checkpoint,
            folder=folder,
            device=setting.device,
            key=self._key(phase),
            accept_changes=self.accept_changes,
            sync_bn=recipe.parallel.sync_bn,
            shard=recipe.parallel.shard == "fsdp",
            resume_command=self.resume_command,
        )

    def _key(self, phase: str) -> str:
        setting = self.setting
        weights = [built.weights_id for built in (setting.student, *setting.teachers)]
        extra = getattr(setting.transfer_set, "extra_fingerprint", None)
        return training_key(phase, setting.recipe, weights, [setting.data.fingerprint, extra])


def _shown(percent: bool, value: float) -> str:
    return f"{value:.1%}" if percent else f"{value:.4g}"
