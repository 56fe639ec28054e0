"""What a task may have beside what a run needs; a command says so where a task has it not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdtool.errors import InputError
from kdtool.tasks.profiled import Profiled
from kdtool.tasks.specimens import Specimens

if TYPE_CHECKING:
    import numpy as np

    from kdtool.engine.job import Batches
    from kdtool.generation.request import Teacher as Answering
    from kdtool.recipe.schema import Recipe
    from kdtool.tasks.prediction import Prediction
    from kdtool.tasks.task import Built

Say = Callable[[str], None]


class Offers:
    """The half of a task that commands ask for one by one."""

    name: ClassVar[str]
    corrupted: ClassVar[str] = ""
    """A corruption that ``evaluate`` takes, for advice; "": there is none."""

    def evaluate(self, target: str, data: str | None, **options: Any) -> dict[str, Any]:
        """Measure a network on data, for ``kdtool.evaluate``, which has the options that are passed on.

        Raises:
            InputError: something that was given is wrong, or the task cannot do this.
        """
        raise self.lacks("evaluation outside of a run")

    def predict(self, target: str, inputs: Sequence[str], **options: Any) -> Iterator[Prediction]:
        """Return what a network makes of new inputs, one after the other as they come, for ``kdtool.predict``.

        Raises:
            InputError: something given is wrong, or the task cannot do this; at the end: no input could be read.
        """
        raise self.lacks("predictions of new inputs")

    def answerer(self, target: str, device: str | None) -> Answering:
        """Return a network as a teacher that answers questions, for ``kdtool.generate``.

        Args:
            target: as ``evaluate`` takes it.
            device: None: the best there is.

        Raises:
            InputError: there is no such network, or the task's networks do not write.
        """
        raise self.lacks("networks that answer questions")

    def export(self, target: str, to: Sequence[str] | None, **options: Any) -> dict[str, Any]:
        """Write a student in formats that run without kdtool, for ``kdtool.export``; ``to`` None: the usual ones.

        Raises:
            InputError: something that was given is wrong, or the task cannot do this.
            RunError: an export differs too much, or cannot be made.
        """
        raise self.lacks("exports")

    def profiled(self, target: str, say: Say, **options: Any) -> list[Profiled]:
        """Return the networks that a target names, ready to be timed by ``kdtool.profile``.

        Raises:
            InputError: there is no such target, or the task cannot do this.
        """
        raise self.lacks("profiles")

    def reading(self, recipe: Recipe, rounds: int, say: Say) -> dict[str, Any] | None:
        """Return what reading the recipe's data costs, for ``kdtool bench``; None: the task cannot tell of such data.

        Raises:
            InputError: there is nothing to read.
        """
        return None

    def sections(self, run: Path, recipe: Recipe, say: Say) -> Any:
        """Return what the page shows of a run beyond its log and networks: a ``kdtool.report.sections.RunSections``.

        Raises:
            InputError: the run has no student yet.
        """
        from kdtool.report.sections import RunSections

        return RunSections()

    def lacks(self, what: str) -> InputError:
        """Return the error for something that the task does not offer."""
        return InputError(f"the task {self.name!r} has no {what}.")

    def refuse_others(self, given: Mapping[str, Any], own: set[str]) -> None:
        """Refuse options of ``kdtool profile``, given by name, that are not the task's own.

        Raises:
            InputError: one is not the task's.
        """
        for name in given:
            if name not in own:
                valid = ", ".join(f"--{each.replace('_', '-')}" for each in sorted(own)) or "none"
                raise InputError(
                    f"the task {self.name!r} has no --{name.replace('_', '-')}; of what sets a sample's size: {valid}."
                )

    def specimens(self) -> Specimens:
        """Return tiny data and networks, with which ``kdtool.testing`` checks the task, and methods on it."""
        raise self.lacks("specimens for the conformance kit")

    def knows(self, path: Path) -> bool:
        """Return whether a folder or a file outside of any run holds a network of this task and of no other."""
        return False

    def model_names(self, quick: bool) -> Sequence[str]:
        """Return names that ``model`` takes, for the shell to offer after a Tab.

        Args:
            quick: only those that are known without importing torch or a library of models.
        """
        return ()

    def sample(self, data: Any) -> list[tuple[str, bool]]:
        """Return a training sample's text for ``kdtool inspect``: pieces, each with whether it is learnt; or []."""
        return []

    def token_counts(self, split: Any, student: Built, batches: Batches) -> np.ndarray | None:
        """Return the (N,) tokens of a training set's samples for ``kdtool inspect``; None: they have none.

        Args:
            split: the training set.
            student: whose tokens are counted.
            batches: as the student is trained on them; their ``lengths``, where they have some, are the default.
        """
        return getattr(batches, "lengths", None)

    def stages(self, built: Any) -> list[dict[str, Any]]:
        """Return a network's stages for ``kdtool inspect``, shallow to deep, and one for the head; [] where unknown.

        Each has "stage", "module", "shape", "channels", "stride", "params" and "macs"; None for what does not apply.
        """
        return []
