"""One run from recipe to result: data, networks, teachers, baseline, student, test."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdtool.recipe import load as recipes
from kdtool import registry
from kdtool.cache.open import CachedTeacher, Context, open_or_build
from kdtool.cache.replay import Replayed
from kdtool.tasks.images.data import unreadable
from kdtool.tasks.images.data.loader import Loader, make_loader
from kdtool.tasks.images.data.sources import DataSet, Split, default_image_size, open_data, thin
from kdtool.tasks.images.data.stream_loader import StreamLoader, make_stream_loader
from kdtool.system.disk import write_whole
from kdtool.engine.host import flush_denormals, keep_freed_memory
from kdtool.engine.job import Fitted, Job, Replay
from kdtool.engine.optim import build_optimizer
from kdtool.engine.plan import plan_stages
from kdtool.engine.precision import pick_device
from kdtool.engine.processes import is_main, local_rank, rank, wait_for_all, world_size
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.method import Method
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.networks import (
    Networks,
    build_student,
    build_teachers,
    make_method,
    settle_rates,
    tap_networks,
)
from kdtool.runs.result import outcome
from kdtool.events import Reporter
from kdtool.runs.resume import training_key
from kdtool.runs.folder import RESULT, resume_command
from kdtool.recipe.schema import Recipe
from kdtool.tasks.common.classification import ImageClassification
from kdtool.runs.teachers import Preparation, accuracy, check_teacher, prepare

CHECK_SAMPLES = 2000
"""How many training images a teacher is checked on where no validation split is held out."""


@dataclass
class Run:
    """A run that is built and measured, and not started.

    Args:
        recipe: checked.
        reporter: who is told.
        folder: where the run goes; None for a dry run.
        resume_folder: what a stopped run is resumed by, where that is not ``folder``: a link's whole chain.
        chain: folders of the runs that made this one's teacher.
        accept_changes: go on from a checkpoint of another recipe.
    """

    recipe: Recipe
    reporter: Reporter
    folder: Path | None = None
    resume_folder: Path | None = None
    chain: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    accept_changes: bool = False

    def __post_init__(self) -> None:
        recipe, say = self.recipe, self.reporter.note
        self.device = pick_device(recipe.train.device, local_rank())
        flush_denormals()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.methods: dict[str, type[Method]] = {name: registry.get(name) for name in recipes.parts(recipe)}
        say(f"plugins loaded: {', '.join(registry.origins(self.methods))}")
        self.online = any(method.online for method in self.methods.values())
        self.data: DataSet = open_data(recipe.data, stream=recipe.train.steps is not None)
        self.image_size = recipe.data.image_size or default_image_size(self.data.native_size)
        classes = len(self.data.class_names)
        self.task = ImageClassification(classes, recipe.train.label_smoothing)
        student = build_student(recipe, classes, self.image_size)
        teachers = build_teachers(recipe, classes, self.image_size, self.online)
        settle_rates(recipe, student, teachers)
        for note in dict.fromkeys(note for built in [student, *teachers] for note in built.notes):
            say(note)
        self.networks: Networks = tap_networks(recipe, self.methods, student, teachers)
        self.train_split: Split = thin(self.data.train, recipe.data, self.data.class_names)
        self.train_loader = self._train_loader()
        say(f"data {self.data.name}: {self.train_size} training images, {self.train_loader.placement}")
        self.method = make_method(
            recipe,
            self.methods,
            self.networks,
            classes,
            torch.from_numpy(self.train_split.labels) if self.data.stream is None else None,
            min(recipe.train.batch_size, self.train_size),
        )
        self.stages = plan_stages(self.method, recipe.train.epochs, recipe.train.task_weight)
        self._check_optimizers()
        self._check_stream()

    def _check_stream(self) -> None:
        for built in self.networks.teachers:
            if self.data.stream is not None and built.needs_training and not self.online:
                raise InputError(
                    f"teacher {built.name} would have to be trained on a stream (train.steps) first. Train it by "
                    f"kdtool run --method none --student {built.name} on the same data, and give its weights: "
                    "--teacher-weights FOLDER/student/model.safetensors"
                )

    def _check_optimizers(self) -> None:
        """Refuse unknown optimizers before hours of teacher training, not after."""
        build_optimizer(self.recipe.optim, self.networks.student.module)
        for number, (section, built) in enumerate(zip(self.recipe.teacher, self.networks.teachers, strict=True)):
            if built.needs_training and not self.online:
                where = f"teacher.{number}" if len(self.recipe.teacher) > 1 else "teacher"
                build_optimizer(section.train.optim, built.module, f"{where}.train.optim")

    @property
    def train_size(self) -> int:
        """How many samples the student is trained on."""
        return len(self.train_split if self.data.stream is None else self.data.stream)

    def _train_loader(self) -> Loader | StreamLoader:
        cfg, networks = self.recipe.train, self.networks
        if cfg.steps is None:
            return self.loader(self.train_split, train=True)
        return make_stream_loader(
            self.data, self.recipe.data, self.image_size, (networks.mean, networks.std), cfg.batch_size, cfg.seed,
            self.device, steps=-(-cfg.steps // cfg.epochs), channels_last=cfg.channels_last,
            part=(rank(), world_size()),
        )  # fmt: skip

    def loader(self, split: Split, train: bool) -> Loader:
        cfg, networks = self.recipe.train, self.networks
        norm = (networks.mean, networks.std)
        return make_loader(
            self.data, split, self.recipe.data, self.image_size, norm, cfg.batch_size, cfg.seed, self.device, train,
            channels_last=cfg.channels_last, part=(rank(), world_size()),
        )  # fmt: skip

    # --- the run --------------------------------------------------------------------------------------------------

    def execute(self, stop: StopRequest) -> dict[str, Any]:
        """Prepare teachers, train the baseline and the student, test, write ``student/`` and ``result.json``."""
        assert self.folder is not None
        began = time.monotonic()
        self.data.unreadable.write_to(self.folder / unreadable.FILE)
        self.ready_teachers(stop)
        self.seconds["teachers"] = time.monotonic() - began
        teacher_val = self.check_teachers()
        replay = self.replay(stop)
        baseline = self._train_baseline(stop) if self.recipe.baseline and self.method is not None else None
        if baseline is not None and baseline.best["val"] is not None:
            self._compare_with_baseline(teacher_val, baseline.best["val"]["top1"])
        fitted = self._train_student(stop, replay)
        self._tell_unreadable()
        result = outcome(self, fitted, baseline)
        result["seconds"]["total"] = round(time.monotonic() - began, 1)
        if is_main():
            write_whole(self.folder / RESULT, json.dumps(result, indent=2) + "\n")
        wait_for_all()
        self.reporter.done(result)
        return result

    def _tell_unreadable(self) -> None:
        if count := len(self.data.unreadable.found):
            self.reporter.warn(
                f"{count} images could not be read, and others of their class stood in for them: see "
                f"{self.data.unreadable.path}"
            )

    @property
    def resume_command(self) -> str:
        folder = self.resume_folder or self.folder
        return resume_command(folder) if folder is not None else "the same command"

    def ready_teachers(self, stop: StopRequest) -> None:
        """Give the teachers the weights they teach with; an online method's peers have nothing to get ready."""
        if self.online:
            return
        prep = Preparation(self.recipe, self.data, self.device, self.reporter, stop, self.resume_command)
        for section, built in zip(self.recipe.teacher, self.networks.teachers, strict=True):
            prepare(section, built, prep)
            stop.check(self.resume_command)

    def cached_teachers(self, stop: StopRequest) -> list[CachedTeacher]:
        """Return the ready teachers as the cache of outputs knows them."""
        assert isinstance(self.train_loader, Loader)
        context = Context(
            self.recipe, self.data, self.train_loader, self.device, self.reporter, stop, self.resume_command
        )
        nets = self.networks
        each = zip(nets.teachers, nets.teacher_nets, self._teacher_precisions(), nets.shapes[1], strict=True)
        return [CachedTeacher(context, number, *about) for number, about in enumerate(each)]

    def replay(self, stop: StopRequest) -> Replayed | None:
        """Return the ready teachers' outputs from a cache, as ``cache.mode`` wants it; None: they are computed."""
        if self.recipe.cache.mode == "off" or not self.networks.teachers:
            return None
        if self.online:
            self.reporter.note("no outputs are kept or replayed: the peers learn, so that theirs change")
            return None
        if self.data.stream is not None:
            self.reporter.note("no outputs are kept or replayed: the samples of a stream pass by")
            return None
        began = time.monotonic()
        found = open_or_build(self.cached_teachers(stop), self.recipe.cache.mode, self.reporter)
        self.seconds["cache"] = time.monotonic() - began
        return found

    def check_teachers(self) -> list[float]:
        """Return the ready teachers' accuracies on the validation split, or a part of the training set.

        Raises:
            InputError: one is at chance level.
        """
        if self.online or not self.networks.teachers:
            return []
        val, where = self.data.val, "validation"
        if val is None:
            train, where = self.data.train, "training"
            drawn = np.random.Generator(np.random.Philox(0)).permutation(len(train))[:CHECK_SAMPLES]
            val = train.take(np.sort(drawn))
        batches, found = self.loader(val, train=False), []
        for section, built, net in zip(
            self.recipe.teacher, self.networks.teachers, self.networks.teacher_nets, strict=True
        ):
            top1 = accuracy(net, batches, self.device)
            self.reporter.note(f"teacher {built.name}: top-1 {top1:.1%} on {len(val)} {where} images")
            check_teacher(section, built.name, top1, self.task.num_classes, len(val.labels), self.reporter.warn)
            found.append(top1)
        return found

    def _compare_with_baseline(self, teacher_val: list[float], baseline_val: float) -> None:
        for built, top1 in zip(self.networks.teachers, teacher_val, strict=True):
            if top1 < baseline_val:
                self.reporter.warn(
                    f"teacher {built.name} (top-1 {top1:.1%}) is below the student trained alone ({baseline_val:.1%}): "
                    "it has little to teach. Train it longer (teacher.train.epochs) or choose another."
                )

    def _train_baseline(self, stop: StopRequest) -> Fitted:
        assert self.folder is not None
        alone = build_student(self.recipe, self.task.num_classes, self.image_size)
        job = self._job("baseline", alone.tapped(), self.folder / "baseline")
        began = time.monotonic()
        fitted = fit(job, self.reporter, stop)
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
        nets = self.networks.teacher_nets
        return dataclasses.replace(
            self._job("student", self.networks.student_net, folder),
            method=self.method,
            teachers=[] if self.online else nets,
            peers=nets if self.online else [],
            teacher_precisions=[] if self.online else self._teacher_precisions(),
            replay=replay,
        )

    def _teacher_precisions(self) -> list[str]:
        own = [section.precision for section in self.recipe.teacher]
        return [self.recipe.train.precision if name == "same" else name for name in own]

    def _job(self, phase: str, student: Backbone, folder: Path) -> Job:
        recipe = self.recipe
        return Job(
            phase=phase,
            student=student,
            task=self.task,
            train_batches=self.train_loader,
            val_batches=self._val_loader,
            train=recipe.train,
            optim=recipe.optim,
            schedule=recipe.schedule,
            checkpoint=recipe.checkpoint,
            folder=folder,
            device=self.device,
            key=self._key(phase),
            accept_changes=self.accept_changes,
            sync_bn=recipe.parallel.sync_bn,
            resume_command=self.resume_command,
        )

    def _key(self, phase: str) -> str:
        weights = [built.weights_id for built in (self.networks.student, *self.networks.teachers)]
        return training_key(phase, self.recipe, weights, [self.data.fingerprint, self.train_split.extra_fingerprint])

    @cached_property
    def _val_loader(self) -> Loader | None:
        return self.loader(self.data.val, train=False) if self.data.val is not None else None
