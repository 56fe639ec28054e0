"""What cannot be done with networks that processes have divided among themselves, said before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool.engine.by_input import wants_input
from kdtool.engine.step import has
from kdtool.errors import InputError

if TYPE_CHECKING:
    from kdtool.runs.setting import Setting


def check_shard(setting: Setting) -> None:
    """Refuse what ``parallel.shard=fsdp`` cannot do.

    Raises:
        InputError: naming the key or the method, and why.
    """
    recipe, method = setting.recipe, setting.method
    train, name = recipe.train, recipe.method
    if recipe.parallel.shard == "none":
        return
    networks = (setting.networks.student_net, *setting.networks.teacher_nets)
    asked = setting.task.writer(setting.data, recipe, setting.student)
    share = asked.share if asked is not None else None
    writes = any(planned.stage.on_policy if share is None else share for planned in setting.stages)
    refused = {
        f"train.ema={train.ema:g}": (train.ema > 0, "an average is a second network, whole on each process"),
        "train.precision=fp16": (train.precision == "fp16", "its scaler sees a part of the gradients; bf16 needs none"),
        "teacher.precision=int8": (any(each.precision == "int8" for each in recipe.teacher),
                                   "what is divided is kept as it is"),
        f"train.compile={train.compile}": (train.compile != "off", "what is compiled holds whole weights"),
        "train.auto_batch=true": (train.auto_batch, "a step that finds no memory on one process stops all of them"),
        "cache.mode=build": (recipe.cache.mode == "build", "processes run a teacher each on batches of their own while "
                                                           "they fill a cache; kdtool cache build does it before"),
        f"method {name}": (has(method, "ships"), "it ships other layers than the student's, which share its weights"),
        f"method {name} (gradients by the images)": (any(map(wants_input, networks)),
                                                     "weights are gone before a gradient is differentiated again"),
        f"method {name} (samples that a network writes)": (
            method is not None and (writes or any(planned.stage.teacher_writes for planned in setting.stages)),
            "processes write texts of unlike length, and would wait for one another",
        ),
    }  # fmt: skip
    for what, (so, why) in refused.items():
        if so:
            raise InputError(f"parallel.shard=fsdp: {what} is not possible, for {why}. Leave one of them out.")
