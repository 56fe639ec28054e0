"""One job of a comparison, done in this process: a run begun or gone on with, or a trial of options."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdtool.engine.log import METRICS, read_log
from kdtool.errors import InputError, Interrupted, KdtoolError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.system import strict_json

COST = "cost.json"
"""What a finished run took, beside its result."""

_LOCK_S = 30.0
"""How long to wait for a run's folder that a process which is being ended still holds."""


@dataclass(frozen=True)
class Job:
    """What a worker is told.

    Attributes:
        name: shown to people.
        folder: the run's.
        recipe: as plain data.
        threads: torch's.
        trial: measure on the validation split only, and keep no student.
    """

    name: str
    folder: str
    recipe: dict[str, Any] = field(compare=False)
    threads: int = 1
    trial: bool = False

    @property
    def log(self) -> Path:
        """The file in which the run tells what it does."""
        return Path(f"{self.folder}.log")

    def to_json(self) -> str:
        """Return it on one line."""
        return strict_json.dumps(asdict(self))


def perform(job: Job) -> str | None:
    """Do a job; its words go to standard output. Return None, or why it failed.

    Raises:
        Interrupted: a signal; a checkpoint was written.
    """
    import sys

    import torch

    from kdtool.terminal.plain import PlainReporter

    torch.set_num_threads(job.threads)
    reporter = PlainReporter(sys.stdout, table=False)
    try:
        _wait_until_free(Path(job.folder))
        recipe = recipes.from_dict(job.recipe)
        if job.trial:
            from kdtool.comparison.trial import trial

            trial(recipe, Path(job.folder), reporter)
        else:
            _run(recipe, Path(job.folder), reporter)
    except Interrupted:
        raise
    except KdtoolError as error:
        return _told(str(error))
    except Exception as error:
        import traceback

        traceback.print_exc(file=sys.stdout)
        return _told(f"internal error: {' '.join(f'{type(error).__name__}: {error}'.split())}")
    return None


def _told(error: str) -> str:
    print(f"error: {error}", flush=True)
    return error


def _run(recipe: Recipe, folder: Path, reporter: Any) -> None:
    import kdtool
    from kdtool.runs.folder import RECIPE
    from kdtool.system.disk import write_whole

    if (folder / RECIPE).is_file():
        kdtool.run(resume=folder, flags=dict(recipes.own_code(recipe)), reporter=reporter)
    else:
        _clear(folder)
        kdtool.run(recipe, reporter=reporter)
    write_whole(folder / COST, strict_json.dumps({"memory": peak_memory()}) + "\n")


def _clear(folder: Path) -> None:
    """Remove what a run that was killed before it was written down left behind."""
    left = list(folder.iterdir()) if folder.is_dir() else []
    if left and all(path.name.startswith(".") and path.is_file() for path in left):
        for path in left:
            path.unlink()


def _wait_until_free(folder: Path) -> None:
    from filelock import FileLock, Timeout

    from kdtool.runs.folder import LOCK

    path = folder / LOCK
    if not path.is_file():
        return
    try:
        with FileLock(path, timeout=_LOCK_S):
            pass
    except Timeout as error:
        raise InputError(f"the run folder {folder} is held by another process.") from error


def peak_memory() -> dict[str, int | None]:
    """Return the most bytes that this process has held: resident on the host, and allocated on a CUDA device."""
    import resource
    import sys

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "device": device}


def training_seconds(folder: Path) -> float | None:
    """Return how long a run's student trained, by its log: interruptions and teachers left out."""
    try:
        seconds = [float(each["seconds"]) for each in read_log(folder / METRICS) if each["phase"] == "student"]
    except (ValueError, KeyError, TypeError):
        return None
    return round(sum(seconds), 3) if seconds else None
