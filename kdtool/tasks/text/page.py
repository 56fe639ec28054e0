"""A run's page: student, teachers and baseline measured again, and a look at test sentences one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.report.sections import RunSections
from kdtool.tasks.common.hooked import EMBEDDING
from kdtool.tasks.common.looking import MOST, Shown, looked, method_temperature, outputs_of, see
from kdtool.tasks.common.matching import choose, evenly
from kdtool.tasks.common.page import page_of_run
from kdtool.tasks.common.targets import find
from kdtool.tasks.task import Say
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.evaluation.evaluate import UNIT, evaluate
from kdtool.tasks.text.evaluation.examined import Examined
from kdtool.tasks.text.evaluation.target import Target, open_target
from kdtool.tasks.text.evaluation.teachers import own_teachers

LONGEST = 300
"""Characters of a sentence that are shown."""


def sections(run: Path, recipe: Any, say: Say) -> RunSections:
    """Return what a run's page shows of its sentences.

    Args:
        run: its folder.
        recipe: of its last link.
        say: takes sentences for the user.

    Raises:
        InputError: the run has no student yet, or its data are not there.
    """
    return page_of_run(run, say, evaluate, lambda: look(recipe, str(run)), unit=UNIT)


def look(recipe: Any, run: str) -> dict[str, Any]:
    """Return what a run's student and its first teacher make of test sentences; see ``kdtool.tasks.common.looking``."""
    data = open_data(recipe.data)
    student = open_target(find(run), data)
    (split,) = choose(data, "test", UNIT).values()
    few = evenly(split, MOST)
    examined = Examined(data, recipe.data, {"test": few}, recipe.train.batch_size, pick_device(recipe.train.device))
    teachers, notes = own_teachers(recipe, data) if recipe.teacher else ([], [])
    networks = {"student": student, **({"teacher": teachers[0]} if teachers else {})}
    shown = {part: _shown(network, examined, notes) for part, network in networks.items()}
    seen = see(shown, data, examined.labels)
    return looked(seen, method_temperature(recipe), lambda i: {"text": _text(few.samples[int(few.rows[i])])}, notes)


def _shown(network: Target, examined: Examined, notes: list[str]) -> Shown:
    def outputs() -> tuple[Tensor, Tensor | None]:
        built = network.built
        try:
            tapped = built.tapped({EMBEDDING: EMBEDDING})
        except InputError as error:
            notes.append(f"no embedding of {network.name}: {error}")
            tapped = built.tapped()
        batches = (batch for each in examined.batches(built) for batch in each.epoch(0))
        return outputs_of(tapped, batches, examined.device)

    return Shown(network.name, network.class_names, network.built.num_classes, outputs)


def _text(sample: str | tuple[str, str]) -> str:
    whole = sample if isinstance(sample, str) else " | ".join(sample)
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"
