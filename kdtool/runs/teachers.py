"""Teachers made ready: trained on the data where their head does not fit, kept for the next run, and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdtool.system import strict_json
from kdtool.engine.job import Fitted, Job, Objective
from kdtool.engine.processes import from_main, is_main, rank, wait_for_all, world_size
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.recipe.decides import digested, keys_deciding
from kdtool.recipe.options import TEACHER
from kdtool.recipe.schema import Checkpoint, Recipe, Teacher, Train
from kdtool.runs.kept import NOTE, PARTIAL, is_kept, kept_folder, lock_of, mark_used
from kdtool.runs.setting import Pair
from kdtool.runs.verdict import guessed
from kdtool.system.disk import write_whole
from kdtool.system.locks import waiting_lock
from kdtool.system.names import file_name
from kdtool.tasks.task import Built, Reading, Task

FORMAT = 2
"""Raised when the engine changes what a teacher's training gives."""


@dataclass
class Preparation:
    """What preparing a teacher needs beyond the teacher itself."""

    pair: Pair
    reporter: Reporter
    stop: StopRequest
    resume_command: str


def prepare(section: Teacher, built: Built, prep: Preparation) -> None:
    """Give a teacher the weights it teaches with: kept from an earlier run, or trained now and kept.

    A teacher whose weights already fit the data is left as it is. Of two runs that need the same one at once, the
    second waits for the first.
    """
    if not built.needs_training:
        return
    pair = prep.pair
    key = _key(section, built, pair.recipe, pair.task, pair.data)
    folder = kept_in(section, built, pair.recipe, pair.task, pair.data)
    say = prep.reporter.note
    lock = waiting_lock(
        lock_of(folder),
        on_wait=lambda: say(f"waiting for another run that is training teacher {built.name}"),
        check=lambda: prep.stop.check(prep.resume_command),
    )
    with lock if is_main() else nullcontext():
        if from_main(is_kept(folder, prep.reporter.warn) if is_main() else None):
            say(f"teacher {built.name}: reusing the one trained before ({folder})")
            if is_main():
                mark_used(folder)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run killed at its very end
        else:
            say(f"teacher {built.name}: training it on {pair.data.name} first; it is kept for later runs")
            _train(section, built, prep, folder, key)
    if is_main():
        pair.task.load(built, folder)
    built.module.load_state_dict(from_main(built.module.state_dict() if is_main() else None))


def kept_in(section: Teacher, built: Built, recipe: Recipe, task: Task, data: Any) -> Path:
    """Return the folder in which a teacher that needs training is kept, whether or not it is there yet."""
    key = _key(section, built, recipe, task, data)
    return kept_folder() / f"{file_name(built.name)}-{key[:16]}"


def _train(section: Teacher, built: Built, prep: Preparation, folder: Path, key: str) -> None:
    how, pair = section.train, prep.pair
    recipe, task, data = pair.recipe, pair.task, pair.data
    # The student's views and sampler are its own.
    own = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, views=None, sampler="random"))

    def batches(split: Any, train: bool) -> Any:
        reading = Reading(how.batch_size, how.seed, pair.device, train, (rank(), world_size()))
        return task.batches(data, split, own, [built], reading)

    working = folder.with_name(folder.name + PARTIAL)
    job = Job(
        phase=f"teacher {built.name}",
        student=built.tapped(),
        objective=task.objective(data, how.label_smoothing),
        train_batches=batches(data.train, True),
        # A teacher is the epoch that validates best, and the test split may not choose it.
        val_batches=batches(data.val, False) if data.val is not None and not recipe.data.watch_test else None,
        train=Train(
            epochs=how.length,
            batch_size=how.batch_size,
            seed=how.seed,
            precision=recipe.train.precision,
            channels_last=recipe.train.channels_last,
            clip_grad=how.clip_grad,
            ema=how.ema,
            log_every=recipe.train.log_every,
            compile=recipe.train.compile,
        ),
        optim=how.optim,
        schedule=how.schedule,
        checkpoint=Checkpoint(),
        folder=working,
        device=pair.device,
        key=key,
        resume_command=prep.resume_command,
    )
    fitted = fit(job, prep.reporter, prep.stop)
    if is_main():
        _keep(fitted, built, prep, working, folder, key)
    wait_for_all()


def _keep(fitted: Fitted, built: Built, prep: Preparation, working: Path, folder: Path, key: str) -> None:
    weights = prep.pair.task.save(working, built, fitted.state, prep.pair.data, prep.pair.recipe)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    about = {"key": key, "sha256": digest, "best": fitted.best, "last": fitted.last}
    about |= {"teacher": built.name, "data": prep.pair.data.name}
    write_whole(working / NOTE, strict_json.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    working.rename(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # last: until then a killed run goes on from them


def _key(section: Teacher, built: Built, recipe: Recipe, task: Task, data: Any) -> str:
    """Return the digest of everything that decides a prepared teacher's weights."""
    own = built.identity()
    decides: dict[str, Any] = {
        "format": FORMAT,
        "model": [built.name, built.model_args, built.source_hash, built.weights_id],
        "head": built.num_classes,
        "input": [own[name] for name in built.input_keys if name in own],
        "train": digested(section.train),
        "precision": list(keys_deciding(recipe.train, TEACHER).values()),
        "data": [data.fingerprint, keys_deciding(recipe.data, TEACHER)],
        "versions": [torch.__version__, *task.versions(TEACHER).values()],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def check_teacher(
    section: Teacher, built: Built, value: float, objective: Objective, samples: int, warn: Callable[[str], None]
) -> None:
    """Refuse, or warn of, a teacher that is no better than guessing.

    Args:
        section: its part of the recipe; ``check`` says what to do.
        built: it, ready.
        value: of the objective's metric.
        objective: whose ``chance`` is what guessing gives.
        samples: on how many it was measured; within three standard errors of guessing counts as guessing.
        warn: takes the message where ``check`` is "warn".

    Raises:
        InputError: it is at chance level and ``check`` is "error".
    """
    metric = objective.metric
    if section.check == "off" or not guessed(metric, value, objective.chance, samples):
        return
    shown = f"{value:.1%} with {objective.num_classes} classes" if metric.percent else f"{value:.4g}"
    message = (
        f"teacher {built.name} is at chance level: {metric.label} {shown}. {_why_at_chance(section, built)} "
        "Check its weights; teacher.check=warn goes on all the same."
    )
    if section.check == "warn":
        warn(message)
        return
    raise InputError(message)


def _why_at_chance(section: Teacher, built: Built) -> str:
    """Return what may be wrong with a teacher, by where its weights came from."""
    if built.needs_training:
        return (
            f"It was trained here on these classes, and too little (teacher.train.epochs={section.train.epochs}) or "
            f"too fast (teacher.train.optim.lr={section.train.optim.lr})."
        )
    return (
        f"Its weights ({built.origin}) were taken as they are, and not trained here: their classes may be in another "
        "order than the data's, or be others, or they want inputs prepared in another way."
    )
