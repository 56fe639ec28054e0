"""A run's side: find the kept outputs that fit, compute what lacks, and replay them; or say why not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdtool.cache.build import Source, refuse_without_room
from kdtool.cache.identity import differences, identity, key_of
from kdtool.cache.part import LOGITS, Part, in_view
from kdtool.cache.replay import RESIDENT, Outputs, Replayed, ReplayedTeacher, resident
from kdtool.cache.store import MANIFEST, Damaged, Manifest, Place, Store, outputs_folder, problems, read_all
from kdtool.cache.workers import in_processes
from kdtool.engine.precision import Precision
from kdtool.engine.processes import from_main, is_main, rank, wait_for_all, world_size
from kdtool.engine.signals import StopRequest
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.recipe.schema import Recipe
from kdtool.system.locks import waiting_lock
from kdtool.system.names import file_name
from kdtool.tasks.task import Built, Task
from kdtool.terminal import words

HOTTEST = 2.0
"""Temperature above which the mass of what was left out, known at T = 1, is too far from what it would be."""


@dataclass
class Context:
    """What all teachers of a run have in common."""

    recipe: Recipe
    task: Task
    data: Any
    split: Any
    batches: Any
    device: torch.device
    reporter: Reporter
    stop: StopRequest
    resume_command: str

    def check(self) -> None:
        self.stop.check(self.resume_command)


@dataclass
class CachedTeacher:
    """A teacher, ready to teach, and its place among the caches.

    Attributes:
        number: which of the run's teachers, from 0.
        precision: of its forward, by name.
        shapes: of its taps, by role.
    """

    context: Context
    number: int
    built: Built
    network: Any
    precision: str
    shapes: dict[str, Any]

    @cached_property
    def decides(self) -> dict[str, Any]:
        run = self.context
        views = run.batches.decides
        return identity(run.task, run.recipe, self.built, self.precision, run.device, run.data, run.split, views)

    @property
    def key(self) -> str:
        return key_of(self.decides)

    @property
    def folder(self) -> Path:
        return outputs_folder() / f"{file_name(self.built.name)}-{self.key[:16]}"

    @property
    def roles(self) -> dict[str, list[str]]:
        """The tapped roles whose layers all give vectors, each with the layers' names."""
        found, spatial = self.network.network.roles.items(), self.spatial
        # A layer that happens to be called so is left out: the name is taken.
        return {role: keys for role, keys in found if role not in spatial and LOGITS not in keys}

    @property
    def spatial(self) -> list[str]:
        """The other roles: maps and token sequences, too large to keep."""
        return [role for role, shape in self.shapes.items() if any(len(each) != 1 for each in _listed(shape))]

    @property
    def parts(self) -> dict[str, Part]:
        """What is to be kept."""
        cfg, classes, views = self.context.recipe.cache, self.built.num_classes, self.context.recipe.data.views
        assert views is not None, "checked with the recipe"
        top_k = cfg.top_k if cfg.top_k and cfg.top_k < classes else None
        kept = {LOGITS: Part(LOGITS, classes, cfg.dtype, views, top_k)}
        for role, keys in self.roles.items():
            for key, shape in zip(keys, _listed(self.shapes[role]), strict=True):
                kept[key] = Part(key, shape[0], cfg.dtype, views)
        further = {in_view(view, name): part for view in self.further for name, part in kept.items()}
        return kept | {name: replace(part, name=name) for name, part in further.items()}

    @property
    def further(self) -> Sequence[str]:
        """The further views of each sample that the run sees."""
        return tuple(getattr(self.context.batches, "further", ()))

    @property
    def size(self) -> int:
        """Bytes of what is to be kept."""
        rows = len(self.context.split) if self.offsets is None else int(self.offsets[-1])
        return rows * sum(part.views * part.row.itemsize for part in self.parts.values())

    @property
    def offsets(self) -> np.ndarray | None:
        """(samples + 1,) where each sample's rows begin; None: a sample is one row."""
        found: np.ndarray | None = getattr(self.context.batches, "offsets", None)
        return found

    @property
    def wanted(self) -> Manifest:
        about = {"teacher": self.built.name, "data": self.context.data.name}
        samples, size = len(self.context.split), self.context.recipe.cache.shard_rows
        rows = None
        if self.offsets is not None:
            rows = np.diff(self.offsets[[*range(0, samples, size), samples]]).tolist()
        return Manifest(self.decides, self.parts, samples, size, about, rows)

    @property
    def source(self) -> Source:
        run, train = self.context, self.context.recipe.train
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        return Source(self.network, Precision(self.precision, run.device), run.batches, layout, train.tf32)

    # --- as a run asks for it -------------------------------------------------------------------------------------

    def ensure(self, verify: bool = False) -> None:
        """Make the cache hold what the run wants. Of several runs that want it at once, the second waits.

        Args:
            verify: compare the checksums of what is there, however large it is.

        Raises:
            InputError: the disk has no room for it.
            RunError: it cannot be written.
            Interrupted: by a signal; finished shards stay.
        """
        say = self.context.reporter.note
        lock = waiting_lock(
            self.folder.with_name(self.folder.name + ".lock"),
            on_wait=lambda: say(f"waiting for another run that is keeping the outputs of teacher {self.built.name}"),
            check=self.context.check,
        )
        with lock if is_main() else nullcontext():
            store = Store(self.folder, from_main(self._begin(verify) if is_main() else None))
            missing = from_main(store.missing(self.parts.values()) if is_main() else None)
            if missing:
                self._build(store, missing)
            wait_for_all()

    def _begin(self, verify: bool) -> Manifest:
        """Write the manifest of what is there and wanted, and remove what is damaged."""
        manifest, warn = self.wanted, self.context.reporter.warn
        if self.folder.exists():
            try:
                have = Manifest.read(self.folder)
                edited = differences(have.decides, manifest.decides)
                if edited:
                    warn(f"the teacher cache {self.folder} was edited, and is mended: {'; '.join(edited)}")
                else:
                    manifest.shard_rows, manifest.rows = have.shard_rows, have.rows
                    for name, part in have.parts.items():
                        # More views than this run wants stay, and so does what it has no use for.
                        wanted = manifest.parts.get(name, part)
                        manifest.parts[name] = wanted.in_views(part.views) if wanted.row == part.row else wanted
            except Damaged as error:
                warn(f"teacher cache: {error}; writing it anew")
        else:
            self._say_nearest()
        store = Store(self.folder, manifest)
        store.sweep()
        for path, why in list(store.damaged(verify or self.size <= RESIDENT, self.parts.values())):
            warn(f"teacher cache: {why}; computing it again")
            path.unlink()
        refuse_without_room(store, store.missing(self.parts.values()))
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest.write(self.folder)
        return manifest

    def _say_nearest(self) -> None:
        near = nearest(self)
        if near:
            self.context.reporter.note(f"no kept outputs of teacher {self.built.name} fit; {near}")

    def _build(self, store: Store, missing: dict[Place, list[Part]]) -> None:
        run, recipe = self.context, self.context.recipe
        holds = " and ".join(f"{part.name} ({part.top_k or part.width})" for part in self.parts.values())
        run.reporter.note(
            f"keeping the outputs of teacher {self.built.name}: {holds} of {store.manifest.samples} samples in "
            f"{recipe.data.views} views, {words.size(self.size)} ({self.size} bytes) in {self.folder}; "
            f"{len(missing)} shards to compute"
        )
        jobs = min(recipe.cache.jobs, len(missing))
        if world_size() == 1 and jobs > 1:
            places = [(place.view, place.block, [part.name for part in parts]) for place, parts in missing.items()]
            in_processes(recipe, self.number, self.key, self.folder, places, jobs, run.check)
        else:
            share = list(missing.items())[rank() :: world_size()]
            self.source.build(store, share, run.check, run.reporter.note)

    def unfit(self) -> list[str]:
        """Return why the cache cannot be replayed, an empty list where it can."""
        if not self.folder.exists():
            return [nearest(self) or "none is kept"]
        found = problems(self.folder, self.wanted)
        if found:
            return found
        store = Store(self.folder, Manifest.read(self.folder))
        damaged = [why for _, why in store.damaged(self.size <= RESIDENT, self.parts.values())]
        lacking = store.missing(self.parts.values())
        return damaged + ([f"{len(lacking)} shards lack"] if lacking else [])

    def refuse_heat(self) -> None:
        """Refuse a high temperature where only the largest logits are kept, see ``refuse_heat``."""
        recipe = self.context.recipe
        if self.parts[LOGITS].top_k is not None:
            refuse_heat(recipe, f"cache.top_k={recipe.cache.top_k}", "leave cache.top_k out")

    def replayed(self) -> ReplayedTeacher:
        """Open the cache."""
        store = Store(self.folder, Manifest.read(self.folder))
        (self.folder / MANIFEST).touch()  # when it was last used
        whole = resident(self.size, self.context.device)
        dtype = torch.float64 if self.precision == "fp64" else torch.float32
        rest = self.context.recipe.cache.rest
        if self.built.apart and rest == "student":
            rest = "even"  # the student has no such classes
        parts = {n: Outputs(store, part, whole, self.context.device, dtype, rest) for n, part in self.parts.items()}
        return ReplayedTeacher(parts, self.roles, self.network.network.single, self.further)


def refuse_heat(recipe: Recipe, what: str, fix: str) -> None:
    """Refuse a high temperature where the largest of a teacher's logits are all that is known.

    Args:
        recipe: whose methods are looked at.
        what: keeps them, for the message.
        fix: how to do without.

    Raises:
        InputError: a method's temperature is above ``HOTTEST``.
    """
    for name, cfg in recipe.options.items() if not recipe.cache.hot_top_k else ():
        if getattr(cfg, "temperature", 0) > HOTTEST:
            raise InputError(
                f"{what} keeps the other classes' mass at T = 1, and {name}.temperature={cfg.temperature:g} needs it "
                f"at that temperature: lower it to {HOTTEST:g}, {fix}, or allow it (cache.hot_top_k=true)."
            )


def nearest(teacher: CachedTeacher) -> str:
    """Return in words which kept outputs come nearest to a teacher's and where they differ, "" without any."""
    kept = {path: found.decides for path, found in read_all(outputs_folder()).items() if found is not None}
    each = {path.name: differences(decides, teacher.decides) for path, decides in kept.items()}
    if not each:
        return ""
    name = min(each, key=lambda path: len(each[path]))
    return f"nearest is {name}, where {'; '.join(each[name])}"


def open_or_build(teachers: Sequence[CachedTeacher], mode: str, reporter: Reporter) -> Replayed | None:
    """Return the teachers' kept outputs, as ``cache.mode`` says; None where the teachers are to run live.

    Args:
        teachers: ready to teach, and checked.
        mode: "build" computes what lacks, "use" does without, "require" refuses to.
        reporter: told what is replayed, or why nothing is.

    Raises:
        InputError: "require", and a teacher has no cache that fits; or there is no room for one.
    """
    for teacher in teachers:
        teacher.refuse_heat()
        if mode == "build":
            teacher.ensure()
            continue
        why = from_main(teacher.unfit() if is_main() else None)
        if why:
            problem = f"no kept outputs of teacher {teacher.built.name} fit: {'; '.join(why)}."
            if mode == "require":
                raise InputError(f"cache.mode=require: {problem} `kdtool cache build` or cache.mode=build makes them.")
            reporter.warn(f"{problem} The teacher runs live.")
            return None
    for teacher in teachers:
        reporter.note(f"teacher {teacher.built.name}: outputs replayed from {teacher.folder}")
        if teacher.spatial:
            reporter.note(
                f"not kept, for they are maps or sequences: {', '.join(teacher.spatial)}; the teacher runs live in "
                "stages that read them"
            )
    return Replayed([teacher.replayed() for teacher in teachers], [teacher.folder for teacher in teachers])


def _listed(shape: Any) -> list[tuple[int, ...]]:
    return shape if isinstance(shape, list) else [shape]
