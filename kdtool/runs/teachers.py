"""Teachers made ready: trained on the data where their head does not fit, kept for the next run, and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdtool.tasks.images.data.loader import Loader, make_loader
from kdtool.tasks.images.data.sources import DataSet, Split
from kdtool.system.disk import write_whole
from kdtool.engine.job import Fitted, Job
from kdtool.engine.precision import Precision
from kdtool.engine.processes import from_main, is_main, rank, wait_for_all, world_size
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.system.home import home, waiting_lock
from kdtool.tasks.images.models.build import Built
from kdtool.tasks.images.models.save import WEIGHTS, save_student
from kdtool.tasks.images.models.weights import load_state
from kdtool.events import Reporter
from kdtool.recipe.schema import Checkpoint, Recipe, Teacher, Train
from kdtool.tasks.common.classification import ImageClassification

FORMAT = 2
"""Raised when the engine changes what a teacher's training gives."""

NOTE = "teacher.json"
"""Written last into a kept teacher's folder: how it came out, and its weights' digest."""

# What does not decide a teacher's weights: where and how fast its data is read, and what thins the student's.
_DATA_KEYS_ASIDE = (
    *("name", "root", "download", "workers", "memory_budget_gb", "views", "watch_test", "max_bad"),
    *("unlabelled", "labels_per_class", "exclude_classes", "sampler", "samples_per_class", "image_size", "mean", "std"),
    "follow_links",
)


@dataclass
class Preparation:
    """What preparing a teacher needs beyond the teacher itself."""

    recipe: Recipe
    data: DataSet
    device: torch.device
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
    key = _key(section, built, prep.recipe, prep.data)
    folder = kept_in(section, built, prep.recipe, prep.data)
    say = prep.reporter.note
    lock = waiting_lock(
        folder.with_name(folder.name + ".lock"),
        on_wait=lambda: say(f"waiting for another run that is training teacher {built.name}"),
        check=lambda: prep.stop.check(prep.resume_command),
    )
    with lock if is_main() else nullcontext():
        if from_main(is_kept(folder, prep.reporter.warn) if is_main() else None):
            say(f"teacher {built.name}: reusing the one trained before ({folder})")
            if is_main():
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run killed at its very end
        else:
            say(f"teacher {built.name}: training it on {prep.data.name} first; it is kept for later runs")
            _train(section, built, prep, folder, key)
    built.module.load_state_dict(from_main(load_state(folder / WEIGHTS) if is_main() else None))


def is_kept(folder: Path, warn: Callable[[str], None]) -> bool:
    """Tell whether a trained teacher lies in ``folder`` as it was written; a damaged one is said to be."""
    try:
        about = json.loads((folder / NOTE).read_bytes())
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if about.get("sha256", digest) == digest:  # those of older versions have none
            return True
        why = f"{WEIGHTS} is not what was written"
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError) as error:
        why = str(error)
    warn(f"the teacher kept in {folder} is damaged ({why}), and is trained again")
    return False


def kept_in(section: Teacher, built: Built, recipe: Recipe, data: DataSet) -> Path:
    """Return the folder in which a teacher that needs training is kept, whether or not it is there yet."""
    key = _key(section, built, recipe, data)
    return home() / "teachers" / f"{_file_name(built.name)}-{key[:16]}"


def _train(section: Teacher, built: Built, prep: Preparation, folder: Path, key: str) -> None:
    how, recipe = section.train, prep.recipe
    cfg = dataclasses.replace(recipe.data, views=None, sampler="random")

    def loader(split: Split, train: bool) -> Loader:
        norm = (built.mean, built.std)
        return make_loader(
            prep.data, split, cfg, built.image_size, norm, how.batch_size, how.seed, prep.device, train,
            part=(rank(), world_size()),
        )  # fmt: skip

    working = folder.with_name(folder.name + ".partial")
    job = Job(
        phase=f"teacher {built.name}",
        student=built.tapped(),
        task=ImageClassification(built.num_classes, how.label_smoothing),
        train_batches=loader(prep.data.train, True),
        # A teacher is the epoch that validates best, and the test split may not choose it.
        val_batches=loader(prep.data.val, False) if prep.data.val is not None and not cfg.watch_test else None,
        train=Train(
            epochs=how.epochs,
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
        device=prep.device,
        key=key,
        resume_command=prep.resume_command,
    )
    fitted = fit(job, prep.reporter, prep.stop)
    if is_main():
        _keep(fitted, built, prep, working, folder, key)
    wait_for_all()


def _keep(fitted: Fitted, built: Built, prep: Preparation, working: Path, folder: Path, key: str) -> None:
    recipe = prep.recipe
    weights = save_student(working, built, fitted.state, prep.data.class_names, recipe.data.eval_crop)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    about = {"key": key, "sha256": digest, "best": fitted.best, "last": fitted.last}
    write_whole(working / NOTE, json.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    working.rename(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # last: until then a killed run goes on from them


def _key(section: Teacher, built: Built, recipe: Recipe, data: DataSet) -> str:
    """Return the digest of everything that decides a prepared teacher's weights."""
    import timm

    keys = {k: v for k, v in dataclasses.asdict(recipe.data).items() if k not in _DATA_KEYS_ASIDE}
    decides: dict[str, Any] = {
        "format": FORMAT,
        "model": [built.name, built.model_args, built.source_hash, built.weights_id],
        "head": built.num_classes,
        "input": [built.image_size, built.mean, built.std],
        "train": dataclasses.asdict(section.train),
        "precision": [recipe.train.precision, recipe.train.channels_last],
        "data": [data.fingerprint, keys],
        "versions": [torch.__version__, timm.__version__],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[-60:]


def check_teacher(
    section: Teacher, name: str, top1: float, num_classes: int, samples: int, warn: Callable[[str], None]
) -> None:
    """Refuse, or warn of, a teacher that is no better than guessing.

    Args:
        section: its part of the recipe; ``check`` says what to do.
        name: for the message.
        top1: its accuracy, in [0, 1].
        num_classes: K; guessing gives 1/K.
        samples: on how many it was measured; within three standard errors of guessing counts as guessing.
        warn: takes the message where ``check`` is "warn".

    Raises:
        InputError: it is at chance level and ``check`` is "error".
    """
    chance = 1 / num_classes
    if section.check == "off" or top1 > chance + 3 * math.sqrt(chance * (1 - chance) / max(1, samples)):
        return
    message = (
        f"teacher {name} is at chance level: top-1 {top1:.1%} with {num_classes} classes. Its classes may be in "
        f"another order than the data's, or it was trained too little (teacher.train.epochs={section.train.epochs}). "
        "Check its weights; teacher.check=warn goes on all the same."
    )
    if section.check == "warn":
        warn(message)
        return
    raise InputError(message)


@torch.no_grad()
def accuracy(network: torch.nn.Module, batches: Loader, device: torch.device) -> float:
    """Return a network's top-1 accuracy on a split, computed in fp32."""
    from kdtool.engine.evaluate import predict

    logits, labels = predict(network.to(device, torch.float32), batches, Precision("fp32", device))
    return logits.argmax(1).eq(labels).double().mean().item()
