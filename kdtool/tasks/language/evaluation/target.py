"""What is measured: a run's student, a saved model's folder, a model by hub name, or a .gguf file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool.runs.student import STUDENT
from kdtool.tasks.common import targets
from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.common.kept_teachers import PEERS, ready, trained_along
from kdtool.tasks.common.targets import Found
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.language.models.build import Request, build
from kdtool.tasks.language.models.built import Built
from kdtool.tasks.language.models.tokens import GGUF, Tokens
from kdtool.tasks.language.networks import build_student, build_teachers


@dataclass
class Target:
    """A network that is ready to be measured.

    Attributes:
        name: as it was given.
        kind: as in ``Found``, or "teacher".
        built: the network.
        file: what ships, None where nothing is stored.
        notes: sentences for the user.
    """

    name: str
    kind: str
    built: Built
    file: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def about(self) -> dict[str, Any]:
        """What tables show of it; multiply-accumulates are of a dry forward."""
        return {
            "name": self.name,
            "kind": self.kind,
            "model": self.built.name,
            "params": parameters(self.built.module),
            "macs": macs(self.built.tapped(), self.built.dry_inputs(1)),
            "bytes": self.file.stat().st_size if self.file is not None else None,
            "classes": self.built.num_classes,
        }


def find(name: str) -> Found:
    """Return what ``name`` names.

    Raises:
        InputError: a run that has no student yet, a folder without one, a file, or no such folder.
    """
    if Path(name).suffix.lower() == GGUF:
        return Found(name, "model", None, None)
    return targets.find(name)


def place_of(found: Found) -> str:
    """Return what a target's network and tokenizer are opened from."""
    if found.path is None:
        return found.name
    return str(found.path / STUDENT if found.kind == "run" else found.path)


def open_target(found: Found, tokens: Tokens, classes: int, longest: int) -> Target:
    """Open what was found.

    Args:
        found: by ``find``.
        tokens: what makes its inputs.
        classes: V, the tokens that count.
        longest: tokens of a sample at most.

    Raises:
        InputError: it cannot be opened.
    """
    place = place_of(found)
    built = build(Request(place, "auto", classes, tokens, {}, 0, "target", longest))
    file = Path(place) / WEIGHTS
    return Target(found.name, found.kind, built, file if file.is_file() else None, built.notes)


def own_teachers(recipe: Any, data: Any) -> tuple[list[Target], list[str]]:
    """Return a run's teachers with the weights they taught with, and sentences on those that cannot be had.

    Args:
        recipe: the run's.
        data: the run's own.
    """
    if trained_along(recipe):
        return [], [PEERS]
    found, notes = ready(recipe, data, build_student(recipe, data), build_teachers(recipe, data, online=False))
    alike = [(built, file) for built, file in found if not built.apart]
    notes += [f"teacher {built.name} has other tokens than the student: there is no token to agree on"
              for built, _ in found if built.apart]  # fmt: skip
    return [Target(built.name, "teacher", built, file) for built, file in alike], notes
