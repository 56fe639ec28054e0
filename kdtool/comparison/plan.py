"""What a comparison consists of: its runs, each with its recipe and its folder."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdtool import registry
from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from kdtool.recipe.schema import Recipe
from kdtool.recipe.sections import to_plain
from kdtool.system.disk import write_whole
from kdtool.system.names import file_name

FILE = "plan.yaml"


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    student: str
    method: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """What was asked for; with it a comparison is resumed.

    Attributes:
        recipe: a recipe file's content.
        flags, overrides: what goes on top of it, as for ``kdtool.recipe.load``.
        methods, students, seeds: every combination is a run; ``students`` name models.
        jobs: runs at once.
        threads: of each run. It decides the bytes, so that it stays as it was when the comparison is resumed.
        on: "here", or an engine that runs are sent to.
        tune: trials of each method's options; 0: none are searched.
        ranges: what is searched instead of, or beside, what the options' own metadata say, by dotted key.
    """

    recipe: dict[str, Any]
    methods: list[str]
    students: list[str]
    seeds: list[int]
    flags: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    jobs: int = 1
    threads: int = 1
    on: str = "here"
    tune: int = 0
    ranges: dict[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The method that differences are to: hard labels alone, else the first one."""
        return registry.NONE if registry.NONE in self.methods else self.methods[0]

    def cells(self) -> Iterator[Cell]:
        """Yield the runs; all methods of a seed before the next seed, so that pairs come early."""
        for seed in self.seeds:
            for student in self.students:
                for method in self.methods:
                    yield Cell(student, method, seed)

    def recipe_of(self, cell: Cell, folder: Path | None = None, options: Mapping[str, Any] | None = None) -> Recipe:
        """Return the checked recipe of a run.

        Args:
            cell: the run.
            folder: where it goes.
            options: the method's options by dotted key, on top of the recipe's.

        Raises:
            InputError: as for ``kdtool.recipe.load``.
        """
        own = set(recipes.parts(cell.method))
        others = {name for method in self.methods for name in recipes.parts(method)} - own
        typed = [recipes.split_override(text) for text in self.overrides]
        raw = {**self.recipe, **self.flags, **dict(typed), **(options or {})}
        raw = {key: value for key, value in raw.items() if key.split(".")[0] not in others}
        raw |= {"method": cell.method, "train.seed": cell.seed, "student.model": cell.student}
        raw |= {"baseline": False, "out": str(folder) if folder else None}
        classes = [registry.get(name) for name in own]
        if any(each.teachers[1] == 0 or each.online for each in classes):
            raw = {key: value for key, value in raw.items() if key.split(".")[0] != "teacher"}
        if any(each.online for each in classes):
            raw["teacher"] = [cell.student]
        return recipes.from_dict(raw)

    def save(self, folder: Path) -> None:
        """Write the plan into the comparison's folder."""
        write_whole(folder / FILE, recipe_file.dump(to_plain(self), resume_command(folder)))


def load(folder: Path) -> Plan:
    """Return the plan of the comparison in ``folder``.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"--resume {folder}: there is no comparison (no {FILE}); name a folder that kdtool compare wrote."
        )
    raw = recipe_file.read(path)
    names = {each.name for each in dataclasses.fields(Plan)}
    try:
        plan = Plan(**{**raw, "overrides": [str(text) for text in raw.get("overrides", ())]})
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path} is no plan of a comparison; it has the keys {', '.join(sorted(names))}.") from error
    check(plan)
    return plan


def check(plan: Plan) -> None:
    """Refuse what cannot be compared; every recipe is read.

    Raises:
        InputError: names what was given and what is valid.
    """
    for what, given in (("method", plan.methods), ("student", plan.students), ("seed", plan.seeds)):
        if not given:
            raise InputError(f"a comparison needs a {what}: give --{what}s.")
        twice = sorted(name for name, count in Counter(map(str, given)).items() if count > 1)
        if twice:
            raise InputError(f"--{what}s: {twice[0]!r} is there twice.")
    if len({short_name(student) for student in plan.students}) < len(plan.students):
        raise InputError(f"--students {','.join(plan.students)}: two of them would share a folder; rename one.")
    if plan.jobs < 1 or plan.threads < 1 or plan.tune < 0:
        raise InputError(f"--jobs {plan.jobs}, threads {plan.threads}, --tune {plan.tune}: expected 1 or more.")
    if plan.on not in ("here", "ray"):
        raise InputError(f"--on {plan.on!r} is no engine. Valid: ray; leave it out to run on this machine.")
    if plan.on == "ray" and find_spec("ray") is None:
        raise InputError("--on ray needs Ray: pip install 'kdtool[ray]'.")
    foreign = {text.split("=")[0].split(".")[0] for text in plan.overrides} & set(registry.names())
    used = {name for method in plan.methods for name in recipes.parts(method)}
    if foreign - used:
        raise InputError(f"{sorted(foreign - used)[0]!r} is a method that is not compared: add it to --methods.")
    for cell in plan.cells():
        if cell.seed == plan.seeds[0]:
            recipe = plan.recipe_of(cell)
            if recipe.assistants or recipe.generations > 1:
                raise InputError("a comparison is of single runs: leave assistants and generations out.")


def refuse_unnamed_code(plan: Plan, named: Sequence[str], trusted: Sequence[str] = ()) -> None:
    """Refuse to run a model's own file which only a recipe names, as ``kdtool.recipe.load`` does.

    Raises:
        InputError: a model's code was not named by the user.
    """
    for cell in plan.cells():
        for key, model in recipes.own_code(plan.recipe_of(cell)):
            if model not in named and not any(model in text for text in trusted):
                flag = f"--{key.split('.')[0]}" + "s" * key.startswith("student")
                raise InputError(
                    f"{model} would run the code in that file, which a recipe or a folder alone may not ask for. If "
                    f"you trust it, name it on the command line too: {flag} {model}"
                )


def short_name(model: str) -> str:
    """Return a model's name as part of a path."""
    return file_name(model.rsplit("/", 1)[-1].removesuffix(".py"), longest=None)


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Return where a run goes."""
    return folder / short_name(cell.student) / cell.method / f"seed-{cell.seed}"


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a comparison, ready for a shell."""
    return f"kdtool compare --resume {shlex.quote(str(folder))}"


def threads_for(jobs: int) -> int:
    """Return how many threads each of ``jobs`` runs at once gets: its share of the cores, or ``OMP_NUM_THREADS``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) > 0 else max(1, cores // jobs)
