"""The public Python interface: what the commands do, as functions."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.runs import environment, extend, resume as resuming
from kdtool.recipe import load as recipes
from kdtool.runs.chain import links
from kdtool.runs.execution import Execution
from kdtool.engine.processes import from_main, is_main, joined, own_device, wait_for_all
from kdtool.engine.signals import StopRequest
from kdtool.runs.environment import as_recorded
from kdtool.runs.result import describe
from kdtool.events import Reporter
from kdtool.runs.listing import failure_noted
from kdtool.runs.folder import RECIPE, RESULT, Resumed, choose_folder, claimed, held, open_for_resume, write_recipe
from kdtool.runs.setting import Setting, build_setting
from kdtool.runs.time_limit import Cut, cut
from kdtool.recipe.schema import Recipe
from kdtool.track import follow


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        folder: the run's folder; None for a dry run.
        values: the content of ``result.json``, or of the dry run's report.
    """

    folder: Path | None
    values: dict[str, Any]

    @property
    def test(self) -> dict[str, Any]:
        """Test metrics of "student", "teacher" and "baseline"; each with top1, top5, macro_recall and macro_f1."""
        found: dict[str, Any] = self.values["test"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return self.values


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    reporter: Reporter | None = None,
    resume: str | Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
    dry_run: bool = False,
) -> Result:
    """Distil a student as a recipe says.

    Args:
        recipe: a ``Recipe``, nested plain data, or the path or name of a recipe file; None: all defaults.
        reporter: who is told what happens; default: nobody.
        resume: folder of an earlier run to go on with, instead of a recipe. A finished one returns its result, or goes
            on to more epochs (``kdtool.runs.extend``) where ``flags`` or ``overrides`` have train.epochs.
        overrides, flags: with ``resume``, changes to that run's recipe, as ``kdtool.recipe.load`` takes them; models
            whose code is a file of one's own have to be named again.
        accept_changes: with ``resume``, go on though something that decides the result was changed.
        dry_run: build and measure everything, train and write nothing.

    Raises:
        InputError: something the recipe names is wrong.
        RunError: the run cannot go on (a loss that is not finite).
        Interrupted: SIGINT or SIGTERM; a checkpoint was written.
    """
    reporter = reporter or Reporter()
    if resume is not None:
        folder = Path(resume)
        found = open_for_resume(folder, overrides, flags, accept_changes)
        if found.result is not None:
            reporter.done(found.result)
            return Result(folder, found.result)
        follow.check(found.recipe.track.to)
        return _go_on(folder, found, reporter, accept_changes)
    checked = _read(recipe, reporter)
    follow.check(checked.track.to)
    if dry_run:
        checked, _ = _within_limit(checked, reporter)
        setting = build_setting(checked, reporter)
        return Result(None, describe(setting, setting.task.look(setting.data, setting.recipe)))
    if _restarted(checked):
        named = dict(recipes.own_code(checked))
        return run(reporter=reporter, resume=checked.out, flags=named)
    return _start(checked, reporter)


def _read(recipe: Recipe | Mapping[str, Any] | str | Path | None, reporter: Reporter) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipes.validate(recipe)
    if isinstance(recipe, Mapping):
        return recipes.from_dict(recipe, note=reporter.note)
    return recipes.load(recipe, note=reporter.note)


def _restarted(recipe: Recipe) -> bool:
    """Tell whether an elastic launcher started the same command again after a failure."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return again and recipe.out is not None and (Path(recipe.out) / RECIPE).is_file()


def _start(recipe: Recipe, reporter: Reporter) -> Result:
    with StopRequest() as stop, _together(recipe):
        recipe, cut = _within_limit(recipe, reporter)
        # The first link is built before the folder is, so that bad input leaves nothing behind.
        first = links(recipe, from_main(choose_folder(recipe) if is_main() else None))[0]
        setting = build_setting(first, reporter)
        stop.check("the same command")
        if is_main():
            _tell(setting, reporter)
        if first is recipe:
            recipe = setting.recipe  # with the learning rates that it had left open
        with _only_main(claimed(recipe)) as claim:
            if is_main() and cut is not None:
                cut.write(claim)
            return _execute(recipe, reporter, from_main(claim), stop, setting)


def _within_limit(recipe: Recipe, reporter: Reporter) -> tuple[Recipe, Cut | None]:
    """Return a recipe with the epochs that its time limit leaves, and what was cut; None where it has no limit.

    It is measured on networks of its own, so that the run is the one that the cut recipe gives without a limit.
    """
    limit = recipe.train.time_limit
    if limit is None:
        return recipe, None
    whole = copy.deepcopy(recipe)
    whole.train.time_limit = None

    def measure() -> Cut:
        setting = build_setting(whole)
        look = setting.task.look(setting.data, setting.recipe)
        return cut(setting, limit, look.seconds if look is not None else None)

    found = from_main(measure() if is_main() else None)
    reporter.note(found.sentence())
    return found.recipe, found


def _tell(setting: Setting, reporter: Reporter) -> None:
    """Tell what the data hold."""
    found = setting.task.look(setting.data, setting.recipe)
    for sentence in found.sentences() if found is not None else ():
        if sentence not in setting.data.notes:  # those were told when it was opened
            reporter.note(sentence)
    for warning in found.warnings if found is not None else ():
        reporter.warn(warning)


def _go_on(folder: Path, found: Resumed, reporter: Reporter, accept_changes: bool) -> Result:
    recipe, accept = found.recipe, accept_changes or resuming.accepted(folder)
    with _together(recipe), _only_main(held(folder)), as_recorded(folder, reporter.warn), StopRequest() as stop:
        if found.changes:
            reporter.warn(f"going on with what the run did not begin with: {'; '.join(found.changes)}")
        if is_main() and (found.changes or accept_changes or not (folder / resuming.FILE).exists()):
            write_recipe(folder, recipe)
            resuming.record(folder, recipe, accept)
        setting = None
        if found.longer:
            setting, accept = build_setting(recipe, reporter), True  # its checkpoints are of fewer epochs
            if is_main():
                for note in extend.notes(folder, setting.recipe):
                    reporter.note(note)
                extend.reopen(folder, setting)  # first: a run killed here is the one that it was, and ends again
                write_recipe(folder, recipe)
                resuming.record(folder, recipe, accept)
            wait_for_all()
        if is_main() and not (folder / environment.FILE).exists():  # killed before it was noted, and before training
            environment.record(folder)
        return _execute(recipe, reporter, folder, stop, setting, accept_changes=accept)


def _together(recipe: Recipe) -> AbstractContextManager[None]:
    return joined(own_device(recipe.train.device))


def _only_main(context: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """Of several processes one makes and holds the folder."""
    return context if is_main() else nullcontext()


def _execute(
    recipe: Recipe,
    reporter: Reporter,
    folder: Path,
    stop: StopRequest,
    first: Setting | None = None,
    accept_changes: bool = False,
) -> Result:
    """Run all links of a chain, or the only one; ``first`` is the setting of the first of them where it is built."""
    *early, last = links(recipe, folder)
    for link in early:
        _finish(link, first, folder, reporter, stop, accept_changes)
        first = None
    setting = first or build_setting(last, reporter)
    chain = [str(link.out) for link in early]
    execution = Execution(setting, reporter, folder, chain=chain, accept_changes=accept_changes)
    with _followed(execution):
        return Result(folder, execution.run(stop))


def _finish(
    link: Recipe, setting: Setting | None, whole: Path, reporter: Reporter, stop: StopRequest, accept_changes: bool
) -> None:
    """Run one early link of the chain in ``whole``, unless an earlier process finished it."""
    folder = Path(link.out or "")
    if from_main((folder / RESULT).is_file()):
        reporter.note(f"{link.student.model}: done before ({folder})")
        return
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(folder, link)
    setting = setting or build_setting(link, reporter)
    execution = Execution(setting, reporter, folder, whole, accept_changes=accept_changes)
    with _followed(execution):
        execution.run(stop)


@contextmanager
def _followed(execution: Execution) -> Iterator[None]:
    """Tell the trackers that the recipe names, and note a failure; of several processes one does."""
    if not is_main():
        yield
        return
    assert execution.folder is not None
    recipe = execution.setting.recipe
    track, config = recipe.track, recipes.to_dict(recipe)
    with (
        failure_noted(execution.folder),
        follow.following(track.to, track.project, execution.folder, config, execution.reporter) as reporter,
    ):
        execution.reporter = reporter
        yield
