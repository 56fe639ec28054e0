"""The flags behind which keys of a recipe stand: one table for every command that takes a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from kdtool.cli import complete, options
from kdtool.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
Completion = Callable[[click.Context, click.Parameter, str], list[Any]]


@dataclass(frozen=True)
class Flag:
    """A flag and the key that it sets.

    Attributes:
        name: such as "--batch-size".
        key: of the recipe, dotted.
        help: a sentence.
        metavar, type: as click has them.
        multiple: repeatable; the key gets a list.
        sets: it takes no value, and sets this one.
        complete: what the shell offers.
        kept: it says how long a run takes, where results go or who hears of them; commands that keep nothing have it
            not.
    """

    name: str
    key: str
    help: str
    metavar: str = "NAME"
    type: Any = None
    multiple: bool = False
    sets: Any = None
    complete: Completion | None = None
    kept: bool = False

    @property
    def parameter(self) -> str:
        """What click calls its value."""
        return self.name.removeprefix("--").replace("-", "_")

    def option(self) -> Callable[[F], F]:
        """Return the decorator that adds it to a command."""
        if self.sets is not None:
            return click.option(self.name, is_flag=True, default=None, help=self.help)
        return click.option(
            self.name, type=self.type, multiple=self.multiple, metavar=self.metavar, shell_complete=self.complete,
            help=self.help,
        )  # fmt: skip


_MODEL: dict[str, Any] = {"metavar": "MODEL", "complete": complete.models}
_COUNT: dict[str, Any] = {"metavar": "N", "type": int}

TABLE = (
    Flag("--task", "task", "What is learnt; see `kdtool list-tasks`.  [default: images]", complete=complete.tasks),
    Flag("--method", "method", "Distillation method, several joined by +, or none.", complete=complete.methods),
    Flag("--teacher", "teacher.model", "Teacher; repeat for several.  [default: resnet50]", multiple=True, **_MODEL),
    Flag("--student", "student.model", "Student.  [default: mobilenetv3]", **_MODEL),
    Flag("--data", "data.name", "Data set: a built-in one, a folder, or a name that the task knows.",
         "NAME|FOLDER", options.PathName()),
    Flag("--teacher-weights", "teacher.weights", "Once for each --teacher, in the same order.", "W", multiple=True),
    Flag("--student-weights", "student.weights", "auto, pretrained, scratch, or a file of weights.", "W"),
    Flag("--assistant", "assistants", "Model between teacher and student; repeatable.", multiple=True, **_MODEL),
    Flag("--generations", "generations", "Students in a row, each taught by the one before.", **_COUNT),
    Flag("--epochs", "train.epochs", "Epochs of the student.", **_COUNT),
    Flag("--teacher-epochs", "teacher.train.epochs", "Epochs of a teacher that is trained first.", **_COUNT),
    Flag("--patience", "train.patience", "End after so many epochs without a better one.", **_COUNT),
    Flag("--time-limit", "train.time_limit", "Cut the epochs to what fits: 2h, 90m, 45s.", "TIME", kept=True),
    Flag("--batch-size", "train.batch_size", "Samples in a batch.", **_COUNT),
    Flag("--lr", "optim.lr", "Peak learning rate.", "X", float),
    Flag("--image-size", "data.image_size", "Pixels a side.", **_COUNT),
    Flag("--seed", "train.seed", "Seed of first weights, order and dropout.", **_COUNT),
    Flag("--device", "train.device", "auto, cpu, mps, cuda or cuda:N."),
    Flag("--precision", "train.precision", "fp32, bf16, fp16 or fp64."),
    Flag("--workers", "data.workers", "Processes that read the data.", **_COUNT),
    Flag("--teacher-cache", "cache.mode", "Keep the teacher's outputs, and replay kept ones.", sets="build"),
    Flag("--class-weights", "train.class_weights", "Rare classes count as much as frequent ones.", sets="balanced"),
    Flag("--balanced", "data.sampler", "Show every class equally often.", sets="balanced"),
    Flag("--auto-batch", "train.auto_batch", "Where memory runs out, split the batch and go on.", sets=True),
    Flag("--out", "out", "The run's folder.", "FOLDER", options.PathName(), kept=True),
    Flag("--baseline", "baseline", "Also train the student alone, on the same budget.", sets=True, kept=True),
    Flag("--track", "track.to", "tensorboard, wandb or mlflow; repeatable.", multiple=True, kept=True),
)  # fmt: skip


def recipe(*, kept: bool = False, but: Iterable[str] = (), several: bool = False) -> Callable[[F], F]:
    """Add ``arguments`` (a recipe and overrides) and the table's flags to a command.

    Args:
        kept: also the flags on what is kept of a run.
        but: flags that the command has a meaning of its own for, or sets itself.
        several: it takes several recipes.
    """
    left_out = set(but)
    chosen = [flag for flag in TABLE if (kept or not flag.kept) and flag.name not in left_out]

    def add(function: F) -> F:
        for flag in reversed(chosen):
            function = flag.option()(function)
        shape = f"[RECIPE.yaml]{'...' * several} [KEY=VALUE]..."
        return click.argument("arguments", nargs=-1, metavar=shape, shell_complete=complete.recipes)(function)

    return add


def values(given: Mapping[str, Any], but: Iterable[str] = ()) -> dict[str, Any]:
    """Return what was given by dotted key.

    Args:
        given: by parameter; those that are no flags of the table are left out.
        but: as for ``recipe``.
    """
    found: dict[str, Any] = {}
    left_out = set(but)
    for flag in TABLE:
        value = given.get(flag.parameter)
        if value not in (None, ()) and flag.name not in left_out:
            found[flag.key] = list(value) if flag.multiple else value if flag.sets is None else flag.sets
    return found


def one_recipe(arguments: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Return the recipe, None without one, and the overrides.

    Raises:
        InputError: there are several recipes.
    """
    paths, overrides = options.sort_arguments(arguments)
    if len(paths) > 1:
        raise InputError(f"one recipe at a time; got {' and '.join(paths)}. An override has the form key=value.")
    return (paths[0] if paths else None), overrides
