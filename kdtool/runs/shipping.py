"""What a run's student becomes: the network as it is, or with the layers that its method puts in."""

from __future__ import annotations

import dataclasses
import re

from kdtool.engine.step import has
from kdtool.errors import InputError
from kdtool.runs.setting import Setting
from kdtool.tasks.common.replaced import OWN, replaced, sharing
from kdtool.tasks.task import Built


def shipped(setting: Setting) -> Built:
    """Return the network that ships; it shares its tensors with the student's and the method's.

    Raises:
        InputError: the method puts in other layers than torch.nn's, or the task ships none but its own.
    """
    student = setting.student
    if setting.method is None or not has(setting.method, "ships"):
        return student
    module = setting.method.ships(sharing(student.module))
    layers = replaced(student.module, module)
    if not layers:
        return student
    if not setting.task.ships_layers:
        raise InputError(
            f"method {setting.recipe.method!r} ships other layers than the student's, and the task "
            f"{setting.task.name!r} does not. Choose another method."
        )
    # A student that began with replaced layers: "own" is then what stood there.
    before = student.replaced
    nested = {name: re.sub(rf"\b{OWN}\b", before.get(name, OWN), text) for name, text in layers.items()}
    return dataclasses.replace(student, module=module, replaced={**before, **nested})
