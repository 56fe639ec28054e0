"""``kdtool.compare``: methods x students x seeds from one recipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool import registry
from kdtool.comparison import before
from kdtool.comparison import tune as searching
from kdtool.comparison.plan import FILE as PLAN
from kdtool.comparison.plan import Plan, cell_folder, check, load, refuse_unnamed_code, resume_command, threads_for
from kdtool.comparison.summary import FILE, Entry, document
from kdtool.comparison.tune import Search
from kdtool.comparison.work import Job
from kdtool.comparison.workers import Executor, Workers
from kdtool.engine.signals import StopRequest
from kdtool.errors import InputError, Interrupted
from kdtool.events import Metric
from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from kdtool.recipe.schema import Recipe
from kdtool.recipe.sections import to_plain
from kdtool.runs.folder import LOCK, in_use
from kdtool.system import strict_json
from kdtool.system.disk import write_whole
from kdtool.system.locks import sole_lock
from kdtool.terminal.compare import Watcher

_TICK_S = 0.25


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Attributes:
        folder: holds every run in STUDENT/METHOD/seed-N, as ``kdtool.run`` leaves it.
        values: the content of ``comparison.json``: "rows" (a student and a method each), "runs" and "says".
    """

    folder: Path
    values: dict[str, Any]


def compare(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    methods: Sequence[str] = (),
    students: Sequence[str] = (),
    seeds: int = 5,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    jobs: int = 1,
    tune: int = 0,
    ranges: Mapping[str, str] | None = None,
    on: str = "here",
    out: str | Path | None = None,
    resume: str | Path | None = None,
    watcher: Watcher | None = None,
) -> Comparison:
    """Run every method with every student and seed, and say what the differences show.

    Runs of one seed share data order, budget and first student, so that they are paired. A run that fails is noted and
    the others go on; a resumed comparison tries it again.

    Args:
        recipe: as for ``kdtool.run``; its ``method``, ``baseline`` and ``out`` do not count.
        methods: names, also joined by +; "all": every installed one, and "none". "none" needs no teacher.
        students: models; default: the recipe's.
        seeds: how many, from the recipe's ``train.seed`` on.
        overrides, flags: as for ``kdtool.recipe.load``; a method's options go to the runs that use it.
        jobs: runs at once on this machine; the cores are shared among them.
        tune: search each method's own options with so many trials first, on the validation split; 0: do not.
        ranges: of options that are searched, by dotted key: "LOW:HIGH" or "A,B,C".
        on: "here", or "ray".
        out: the comparison's folder; default: the next free runs/compare-N.
        resume: folder of an earlier comparison to go on with, instead of all this. ``students`` and the flag
            ``teacher.model`` then only name models whose code is a user's own file.
        watcher: who is told; default: nobody.

    Raises:
        InputError: something named is wrong; nothing was written.
        Interrupted: SIGINT or SIGTERM; the runs wrote checkpoints.
    """
    watcher, flags = watcher or Watcher(), dict(flags or {})
    if resume is not None:
        folder = Path(resume)
        plan = load(folder)
        refuse_unnamed_code(plan, [*students, *flags.get("teacher.model", ())])
        return _locked(plan, folder, watcher)
    base = _plain(recipe)
    own = _core(base, flags, overrides)
    plan = Plan(
        recipe=base,
        methods=[*registry.names(), registry.NONE] if list(methods) == ["all"] else list(methods),
        students=list(students) or [own.student.model],
        seeds=list(range(own.train.seed, own.train.seed + seeds)),
        flags=flags,
        overrides=list(overrides),
        jobs=jobs,
        threads=threads_for(jobs),
        on=on,
        tune=tune,
        ranges=dict(ranges or {}),
    )
    check(plan)
    if isinstance(recipe, (str, Path)):
        refuse_unnamed_code(plan, [*students, *flags.get("teacher.model", ())], overrides)
    return _locked(plan, _new_folder(out), watcher)


def _plain(recipe: Recipe | Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    if isinstance(recipe, (str, Path)):
        return dict(to_plain(recipe_file.read(recipe_file.find(recipe))))
    return recipes.to_dict(recipe) if isinstance(recipe, Recipe) else dict(to_plain(recipe or {}))


def _core(base: Mapping[str, Any], flags: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Return what is said of everything but methods: student and first seed are taken from it."""
    raw = {**base, **flags, **dict(map(recipes.split_override, overrides))}
    aside = {*registry.names(), "teacher", "assistants", "generations"}
    raw = {key: value for key, value in raw.items() if key.split(".")[0] not in aside}
    return recipes.from_dict({**raw, "method": registry.NONE})


def _new_folder(out: str | Path | None) -> Path:
    if out is None:
        number = 1
        while Path(f"runs/compare-{number}").exists():
            number += 1
        return Path(f"runs/compare-{number}")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or in_use(folder, PLAN)):
        hint = f"go on with it by --resume {folder}, or" if (folder / PLAN).is_file() else "it is no comparison:"
        raise InputError(f"--out {folder} exists already: {hint} choose another --out.")
    return folder


def _locked(plan: Plan, folder: Path, watcher: Watcher) -> Comparison:
    """Look at everything, then hold the folder and do what is missing."""
    if plan.tune:
        searching.check(plan)
    with StopRequest() as stop:
        about = before.look(plan, watcher.note)
        stop.check("the same command")
    with sole_lock(folder / LOCK, f"the comparison's folder {folder}"):
        if not (folder / PLAN).is_file():
            plan.save(folder)
        # The signals come last: an engine may put handlers of its own in place.
        with closing(_executor(plan)) as executor, StopRequest() as stop:
            return _Study(plan, folder, about, watcher, executor, stop).work()


def _executor(plan: Plan) -> Executor:
    if plan.on == "ray":
        from kdtool.comparison.on_ray import OnRay

        return OnRay(plan.jobs, plan.threads)
    return Workers(plan.jobs, plan.threads, before.gpus(plan))


@dataclass
class _Study:
    """A comparison at work."""

    plan: Plan
    folder: Path
    about: dict[str, Any]
    watcher: Watcher
    executor: Executor
    stop: StopRequest
    tuned: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entries = {cell: Entry(cell, cell_folder(self.folder, cell)) for cell in self.plan.cells()}
        self.by_folder = {str(entry.folder): entry for entry in self.entries.values()}
        for entry in self.entries.values():
            entry.look()

    def work(self) -> Comparison:
        """Search options where that is wanted, then do the runs that are missing."""
        self._tell()
        if self.plan.tune:
            pairs = [(student, method) for student in self.plan.students for method in self.plan.methods]
            metric = Metric.of(self.about)
            searches = [Search(self.plan, self.folder, *pair, metric) for pair in pairs]
            self._do(search.jobs() for search in searches)
            self.tuned = [search.found() for search in searches]
        self._do(self._runs())
        values = self._tell()
        self.watcher.done(values)
        return Comparison(self.folder, values)

    def _runs(self) -> Iterator[Iterator[Job]]:
        options = {(each["student"], each["method"]): each["options"] for each in self.tuned}
        for cell, entry in self.entries.items():
            if entry.state != "done":
                recipe = self.plan.recipe_of(cell, entry.folder, options.get((cell.student, cell.method)))
                name = f"{cell.student} {cell.method} seed {cell.seed}"
                yield iter([Job(name, str(entry.folder), recipes.to_dict(recipe), self.plan.threads)])

    def _do(self, chains: Iterable[Iterator[Job]]) -> None:
        """Do chains of jobs side by side; of a chain one at a time, the next being asked for when one has ended.

        Raises:
            Interrupted: a signal came, and all jobs have ended.
        """
        ready, running, told = deque(chains), dict[Job, Iterator[Job]](), False
        while ready or running:
            while ready and self.executor.free() and not self.stop.signal:
                chain = ready.popleft()
                if (job := next(chain, None)) is not None:
                    self.executor.give(job)
                    running[job] = chain
                    self._mark(job, "running")
            if self.stop.signal and not told:
                self.executor.stop(self.stop.signal)
                ready.clear()
                told = True
            for job, error in self.executor.wait(_TICK_S):
                chain = running.pop(job)
                self._ended(job, error)
                if not told:
                    ready.appendleft(chain)
            self.watcher.tick(list(running))
        if self.stop.signal:
            command = resume_command(self.folder)
            raise Interrupted(f"stopped; resume with: {command}", 128 + self.stop.signal)

    def _ended(self, job: Job, error: str | None) -> None:
        stopped = error is not None and self.stop.signal is not None
        if job.trial:
            if error is not None and not stopped:
                self.watcher.note(f"{job.name} failed: {error}")
                write_whole(Path(job.folder) / searching.FAILED, error + "\n")
            return
        self._mark(job, "waiting" if stopped else "failed" if error is not None else "done", error)
        values = self._tell()
        if not stopped:
            self.watcher.ended(self.by_folder[job.folder].facts(), values)

    def _mark(self, job: Job, state: str, error: str | None = None) -> None:
        if (entry := self.by_folder.get(job.folder)) is not None:
            entry.state, entry.error = state, error

    def _tell(self) -> dict[str, Any]:
        """Write down and show what is known so far."""
        values = document(self.plan, list(self.entries.values()), self.about, self.tuned)
        write_whole(self.folder / FILE, strict_json.dumps(values, indent=2) + "\n")
        self.watcher.known(values)
        return values
