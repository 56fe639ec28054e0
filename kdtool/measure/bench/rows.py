"""``kdtool bench``: what a step costs on this machine, beside what its arithmetic costs."""

from __future__ import annotations

import copy
import itertools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdtool import __version__, registry
from kdtool.cache.open import open_or_build
from kdtool.engine import tree
from kdtool.engine.job import Job, Loaded, Replay
from kdtool.engine.signals import StopRequest
from kdtool.errors import InputError, KdtoolError
from kdtool.events import Reporter
from kdtool.measure.bench.engine import run_engine
from kdtool.measure.bench.floor import BareLoop, Features, synchronize
from kdtool.measure.bench.pairs import compare, median_interval
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.runs.environment import processor
from kdtool.runs.execution import Execution
from kdtool.runs.setting import Setting, build_setting

READY = 4
"""Batches that the floor goes through."""

STEPS_KEPT = 16
"""The training set is thinned to about so many batches: a cache of them takes seconds."""

Say = Callable[[str], None]


def bench(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    precisions: tuple[str, ...] = ("fp32", "bf16"),
    pairs: int = 21,
    steps: int = 2,
    methods: tuple[str, ...] = (),
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure the engine against a bare loop that does the same arithmetic and nothing else.

    Args:
        recipe: as for ``run``: networks, data, batch size, device and method. Nothing is trained to an end or kept;
            teachers are taken as they are built, for what they know costs nothing.
        precisions: of the rows.
        pairs: of blocks in a row, at least 2.
        steps: in a block.
        methods: compared with the default method instead, each alone; ("all",) for every installed one.
        say: told what is being measured.

    Returns:
        {"machine", "pair", "rows", "features", "parts"} or {"machine", "pair", "methods"}: see the README.

    Raises:
        InputError: something that the recipe names is wrong.
    """
    if pairs < 2 or steps < 1:
        raise InputError(f"pairs={pairs}, steps={steps}: a bench needs at least 2 pairs of blocks of 1 step.")
    checked = _bench_recipe(recipe)
    with _temporary_home():
        if methods:
            return {**_about(checked), "methods": _methods(checked, methods, pairs, steps, say)}
        rows: list[dict[str, Any]] = []
        for precision in precisions:
            rows += _rows(checked, precision, pairs, steps, say)
        features = _features(checked, "bf16" in precisions, max(2, pairs // 3), steps, say)  # large, so soon known
        return {**_about(checked), "rows": rows, "features": features, "parts": _parts(checked, precisions, steps)}


def _bench_recipe(given: Any) -> Recipe:
    if isinstance(given, Recipe):
        recipe = copy.deepcopy(given)
    else:
        recipe = recipes.from_dict(given) if isinstance(given, Mapping) else recipes.load(given)
    recipe.data.views = 1
    recipe.data.val_fraction, recipe.data.labels_per_class = 0.0, None
    return recipes.validate(recipe)


def _about(recipe: Recipe) -> dict[str, Any]:
    return {
        "kdtool": __version__,
        "machine": {
            "processor": processor(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "pair": {
            "teacher": [section.model for section in recipe.teacher],
            "student": recipe.student.model,
            "batch_size": recipe.train.batch_size,
            "data": recipe.data.name,
        },
    }


@contextmanager
def _temporary_home() -> Iterator[None]:
    """Keep outputs of teachers that nobody trained out of the cache."""
    before = os.environ.get("KDTOOL_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDTOOL_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["KDTOOL_HOME"]
            else:
                os.environ["KDTOOL_HOME"] = before


class Arm:
    """A run of one method in one precision, built to be measured."""

    def __init__(self, recipe: Recipe, precision: str):
        recipe = copy.deepcopy(recipe)
        recipe.train.precision = precision
        self.run = self._thinned(recipe)
        self.precision = precision
        endless = itertools.chain.from_iterable(self.run.train_batches.epoch(n) for n in itertools.count())
        self.batches: list[Loaded] = list(itertools.islice(endless, READY))
        self.samples = len(self.batches[0].index)

    @staticmethod
    def _thinned(recipe: Recipe) -> Setting:
        whole = build_setting(recipe)
        fewest = int(torch.bincount(torch.from_numpy(whole.data.train.labels.clip(min=0))).min())
        wanted = -(-STEPS_KEPT * recipe.train.batch_size // whole.objective.num_classes)
        if wanted >= fewest:
            return whole
        recipe.data.labels_per_class = wanted
        return build_setting(recipe)

    def job(self, replay: Replay | None) -> Job:
        """Return the job as the run itself would make it."""
        return Execution(self.run, Reporter()).student_job(Path(), replay)

    def replay(self) -> Replay | None:
        """Return the teachers' outputs from a cache, made now; None where the method has none to replay."""
        run = self.run
        if run.online or not run.teachers:
            return None
        teachers = Execution(run, Reporter()).cached_teachers(StopRequest())
        return open_or_build(teachers, "build", Reporter())

    def loop(self, stage: int, replay: Replay | None = None, **features: Any) -> BareLoop:
        wanted = Features(precision=self.precision, replayed=replay is not None, compiled=self.run.recipe.train.compile)
        return BareLoop(self.run, stage, self.batches, replace(wanted, **features), replay)


def _rows(recipe: Recipe, precision: str, pairs: int, steps: int, say: Say) -> list[dict[str, Any]]:
    arm, rows = Arm(recipe, precision), []
    replay = arm.replay()
    for number, planned in enumerate(arm.run.stages):
        for source in (None, replay) if replay is not None else (None,):
            loop = arm.loop(number)
            if source is not None:
                if any(reads - has for reads, has in zip(loop.reads, source.roles, strict=True)):
                    continue  # maps are not kept: the stage is live, as the row before shows
                loop = arm.loop(number, source)
            row = {"method": recipe.method, "stage": planned.stage.name, "precision": precision,
                   "teacher": "replayed" if source is not None else "live"}  # fmt: skip
            say(f"{recipe.method} {planned.stage.name}, {precision}, teacher {row['teacher']}")
            loop.run(2)
            _reset_peak(arm)
            blocks = run_engine(arm.job(source), number, loop.run, pairs, steps)
            figures = compare(arm.samples * steps, blocks.floor_s, blocks.engine_s)
            rows.append({**row, **figures, "peak_memory_mb": _peak(arm)})
    return rows


def _features(recipe: Recipe, half: bool, pairs: int, steps: int, say: Say) -> list[dict[str, Any]]:
    """Switch one feature on after the other, in bare loops beside the plain one."""
    arm = Arm(recipe, "fp32")
    last = len(arm.run.stages) - 1
    replay = arm.replay()
    off: dict[str, Any] = {"channels_last": False, "fused": False, "folded": False, "compiled": "off"}
    ladder: list[tuple[str, dict[str, Any]]] = [("plain fp32", {})]
    ladder += [("channels-last", {"channels_last": True})] if _has_channels(arm) else []
    ladder += [("fused optimizer", {"fused": True})]
    ladder += [("folded teacher", {"folded": True})]
    ladder += [("bf16", {"precision": "bf16"})] if half else []
    ladder += [("replayed teacher", {"replayed": True})] if replay is not None else []
    mode = recipe.train.compile
    ladder += [(f"compiled ({mode})", {"compiled": mode})] if mode != "off" else []
    plain, found, on = arm.loop(last, **off), [], dict(off)
    if replay is not None and any(r - has for r, has in zip(plain.reads, replay.roles, strict=True)):
        ladder = [step for step in ladder if "replayed" not in step[1]]
    for name, change in ladder:
        say(f"feature: {name}")
        on |= change
        loop = arm.loop(last, replay if on.get("replayed") else None, **on)
        loop.run(2)
        times = [(plain.run(steps), loop.run(steps)) for _ in range(pairs)]
        gain, low, high = median_interval([a / b for a, b in times])
        speed = arm.samples * steps / statistics.median(b for _, b in times)
        found.append({"feature": name, "samples_per_s": round(speed, 1), "times_plain": round(gain, 3),
                      "interval": [round(low, 3), round(high, 3)]})  # fmt: skip
    return found


def _has_channels(arm: Arm) -> bool:
    """Tell whether the inputs have a memory layout to choose."""
    return any(tensor.ndim == 4 for tensor in tree.tensors(arm.batches[0].inputs))


def _parts(recipe: Recipe, precisions: tuple[str, ...], steps: int) -> list[dict[str, Any]]:
    """Measure the parts of a step alone: what limits?"""
    found = []
    for precision in precisions:
        arm = Arm(recipe, precision)
        loop = arm.loop(len(arm.run.stages) - 1)
        loop.run(1)
        data = _data_seconds(arm, steps)
        teacher = statistics.median(loop.teach(steps) for _ in range(3)) / steps
        whole = statistics.median(loop.run(steps) for _ in range(3)) / steps
        parts = {"data": data, "teacher": teacher, "student": max(0.0, whole - teacher)}
        rates = {f"{name}_samples_per_s": round(arm.samples / max(s, 1e-9), 1) for name, s in parts.items()}
        found.append({"precision": precision, **rates, "limits": max(parts, key=lambda name: parts[name])})
    return found


def _data_seconds(arm: Arm, steps: int) -> float:
    """Return a batch's seconds on the data path alone."""
    batches = itertools.chain.from_iterable(arm.run.train_batches.epoch(n) for n in itertools.count())
    next(batches)
    synchronize(arm.run.device)
    began = time.perf_counter()
    for _ in itertools.islice(batches, 4 * steps):
        pass
    synchronize(arm.run.device)
    return (time.perf_counter() - began) / (4 * steps)


def _methods(recipe: Recipe, methods: tuple[str, ...], pairs: int, steps: int, say: Say) -> list[dict[str, Any]]:
    """Compare each method's last stage with the default method's, in bare loops."""
    base_name = registry.default()
    base = _method_arm(recipe, base_name).loop(-1)
    names = registry.names() if methods == ("all",) else list(methods)
    found: list[dict[str, Any]] = []
    for name in names:
        say(f"method {name}")
        try:
            arm = _method_arm(recipe, name)
            loop = arm.loop(-1)
        except KdtoolError as error:
            found.append({"method": name, "problem": str(error)})
            continue
        loop.run(2)
        times = [(base.run(steps), loop.run(steps)) for _ in range(pairs)]
        cost, low, high = median_interval([b / a for a, b in times])
        found.append({
            "method": name,
            "stages": [planned.stage.name for planned in arm.run.stages],
            "samples_per_s": round(arm.samples * steps / statistics.median(b for _, b in times), 1),
            f"times_{base_name}": round(cost, 3),
            "interval": [round(low, 3), round(high, 3)],
            "kept_for_backward_mb": round(loop.kept_bytes() / 1e6, 1),
            f"more_than_{base_name}_mb": round((loop.kept_bytes() - base.kept_bytes()) / 1e6, 1),
        })  # fmt: skip
    return found


def _method_arm(recipe: Recipe, name: str) -> Arm:
    plain = {key: value for key, value in recipes.to_dict(recipe).items() if key not in recipes.parts(recipe)}
    cls = registry.get(name)
    if cls.teachers[1] == 0:
        plain["teacher"] = []
    return Arm(recipes.from_dict({**plain, "method": name}), recipe.train.precision)


def _reset_peak(arm: Arm) -> None:
    if arm.run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(arm.run.device)


def _peak(arm: Arm) -> float:
    """Return the peak memory in MB: the row's own on CUDA, else the whole process's so far."""
    if arm.run.device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(arm.run.device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
