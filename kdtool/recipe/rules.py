"""Rules between a recipe's sections: what no single key's type and range can say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kdtool.errors import InputError
from kdtool.recipe import durations
from kdtool.recipe.schema import Recipe

if TYPE_CHECKING:
    from kdtool.method import Method
    from kdtool.tasks.task import Task

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def settle_teachers(
    recipe: Recipe, methods: Mapping[str, type[Method]], task: Task, note: Callable[[str], None] | None
) -> None:
    """Fit the number of teachers to the methods: the default one where none is named, none for ``none``."""
    if not methods:
        if recipe.teacher and note:
            note("the recipe's teacher is not used: the run's method is none (hard labels only).")
        recipe.teacher = []
        return
    low = max(method.teachers[0] for method in methods.values())
    highs = [method.teachers[1] for method in methods.values() if method.teachers[1] is not None]
    high = min(highs) if highs else None
    if high is not None and low > high:
        each = ", ".join(f"{name} {_count_text(*method.teachers)}" for name, method in methods.items())
        raise InputError(f"method={recipe.method!r}: its parts need different numbers of teachers ({each}).")
    if not recipe.teacher and low == 1:
        recipe.teacher = [task.Teacher()]
    given = len(recipe.teacher)
    if given < low or (high is not None and given > high):
        raise InputError(f"method {recipe.method!r} takes {_count_text(low, high)}; the recipe names {given}.")


def _count_text(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more teachers"
    if high == 0:
        return "no teacher"
    return f"{low} teacher{'s' if low > 1 else ''}" if low == high else f"{low} to {high} teachers"


def check_online(recipe: Recipe, methods: Mapping[str, type[Method]]) -> None:
    """Refuse a method that trains its teachers along beside one whose teachers are ready before."""
    online = [name for name, method in methods.items() if method.online]
    if online and len(online) < len(methods):
        raise InputError(
            f"method={recipe.method!r}: {online[0]!r} trains its teachers along (online) and cannot join a method "
            "whose teachers are ready before."
        )


def check_stream(recipe: Recipe, task: Task) -> None:
    """Check a step budget, which only what is streamed has."""
    steps = recipe.train.steps
    if steps is None:
        return
    if not task.streamed(recipe.data.name):
        of = f"of a stream ({task.streams})" if task.streams else f"of a stream, and the task {task.name!r} has none"
        raise InputError(f"train.steps={steps} is the budget {of}; that of {recipe.data.name} is train.epochs.")
    if steps < recipe.train.epochs:
        raise InputError(f"train.steps={steps} is less than train.epochs={recipe.train.epochs}, its number of parts.")
    if recipe.cache.mode == "require":
        raise InputError("cache.mode=require: nothing is kept for the samples of a stream (train.steps): they pass by.")


def _check_time_limit(recipe: Recipe, limit: str) -> None:
    durations.seconds(limit, "train.time_limit")
    if recipe.train.steps is not None:
        raise InputError("train.time_limit cuts epochs, and a stream has none: give it fewer train.steps.")
    if recipe.assistants or recipe.generations > 1:
        raise InputError(
            "train.time_limit is of one run; assistants and generations make several, each of which costs something "
            "else: give --epochs."
        )


def check_values(recipe: Recipe) -> None:
    """Check what one key's type and range cannot say."""
    data, train = recipe.data, recipe.train
    if not _DEVICE.fullmatch(train.device):
        raise InputError(f"train.device={train.device} is not valid. Valid: auto, cpu, mps, cuda, cuda:N.")
    if train.accumulate > train.batch_size:
        raise InputError(f"train.accumulate={train.accumulate} is more than train.batch_size={train.batch_size}.")
    if train.time_limit is not None:
        _check_time_limit(recipe, train.time_limit)
    if recipe.cache.mode != "off" and data.views is None:
        raise InputError(
            f"cache.mode={recipe.cache.mode} (--teacher-cache) keeps outputs for K views of every sample, but every "
            "epoch has a new view: set data.views=K (4, say; 1 where nothing is cropped, flipped or coloured)."
        )
    if data.watch_test and train.select != "last":
        raise InputError(
            "data.watch_test=true shows the test split, which may not choose the epoch: train.select=last."
        )
    texts = {"data.name": data.name, "student.model": recipe.student.model}
    texts.update({f"teacher.{i}.model": teacher.model for i, teacher in enumerate(recipe.teacher)})
    for key, text in texts.items():
        if not text.strip():
            raise InputError(f"{key} is empty.")
