"""What ``kdtool cache`` does, as functions: build, list, verify and prune the kept outputs of teachers."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool.cache.identity import key_of
from kdtool.cache.part import LOGITS
from kdtool.cache.store import MANIFEST, Damaged, Manifest, Store, outputs_folder, read_all
from kdtool.errors import InputError, did_you_mean
from kdtool.events import Reporter
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.runs.kept import list_teachers, prune_teachers
from kdtool.system.disk import bytes_in
from kdtool.system.locks import sole_lock

if TYPE_CHECKING:
    from kdtool.cache.open import CachedTeacher

Flags = dict[str, Any]


def build_cache(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    jobs: int | None = None,
    reporter: Reporter | None = None,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Keep the outputs of a recipe's teachers, which are trained first where they need it.

    Args:
        recipe: as for ``kdtool.run``; ``data.views`` says how many views of each sample.
        jobs: processes that compute; default: ``cache.jobs``.
        reporter: who is told what happens; default: nobody.
        dry_run: only measure what it would take.

    Returns:
        For each teacher "teacher", "samples", "views", "parts" (their widths by name), "bytes" and "folder" (None in a
        dry run, since a teacher that is not trained yet has no place).

    Raises:
        InputError: something the recipe names is wrong, its method has no teacher whose outputs could be kept, or the
            disk has no room.
        RunError: a shard could not be written.
        Interrupted: SIGINT or SIGTERM; finished shards stay.
    """
    from kdtool.engine.processes import joined, own_device
    from kdtool.engine.signals import StopRequest
    from kdtool.runs.execution import Execution
    from kdtool.runs.setting import build_setting

    checked = _read(recipe, {"cache.mode": "build", **({"cache.jobs": jobs} if jobs is not None else {})})
    with StopRequest() as stop, joined(own_device(checked.train.device)):
        setting = build_setting(checked, reporter)
        if setting.online or not setting.teachers:
            why = "its peers learn, so that their outputs change" if setting.online else "it has no teacher"
            raise InputError(f"method {checked.method!r}: there is nothing to keep, for {why}.")
        if setting.data.stream is not None:
            raise InputError("there is nothing to keep of a stream (train.steps): its samples pass by.")
        execution = Execution(setting, reporter or Reporter())
        if not dry_run:
            execution.ready_teachers(stop)
            execution.check_teachers()
        teachers = execution.cached_teachers(stop)
        for teacher in [] if dry_run else teachers:
            teacher.ensure(verify=True)
        return [_about(teacher, dry_run) for teacher in teachers]


def _read(recipe: Recipe | Mapping[str, Any] | str | Path | None, flags: Flags) -> Recipe:
    if isinstance(recipe, Recipe):
        recipe = recipes.to_dict(recipe)
    if isinstance(recipe, Mapping):
        return recipes.from_dict({**recipe, **flags})
    return recipes.load(recipe, flags=flags)


def _about(teacher: CachedTeacher, dry_run: bool) -> dict[str, Any]:
    parts = teacher.parts
    return {
        "teacher": teacher.built.name,
        "samples": len(teacher.context.split),
        "views": teacher.context.recipe.data.views,
        "parts": {name: part.width for name, part in parts.items()},
        "bytes": teacher.size,
        "folder": None if dry_run else str(teacher.folder),
    }


# --- what is there ----------------------------------------------------------------------------------------------------


def list_caches() -> list[dict[str, Any]]:
    """Return for each cache its "name", "folder", "teacher", "data", "samples", "dtype", "bytes" on disk, "complete",
    "unused_days" and "parts": by name "width", "top_k", "views", "shards" that are there and "of" how many.

    "kind" is "outputs"; trained teachers follow, whose "kind" is "teacher" and which have no samples and no parts. What
    cannot be read, or is not known, is None.
    """
    outputs = [_entry(folder, manifest) for folder, manifest in read_all(outputs_folder()).items()]
    none: dict[str, Any] = {"samples": None, "dtype": None, "parts": {}}
    teachers = [{"kind": "teacher", **none, **teacher} for teacher in list_teachers()]
    return [*({"kind": "outputs", **entry} for entry in outputs), *teachers]


def _entry(folder: Path, manifest: Manifest | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": folder.name, "folder": str(folder), "teacher": None, "data": None}
    entry |= {"samples": None, "dtype": None, "bytes": bytes_in(folder), "complete": False, "unused_days": _age(folder)}
    if manifest is None:
        return {**entry, "parts": {}}
    store, parts = Store(folder, manifest), {}
    for part in manifest.parts.values():
        places, found = manifest.places(part), store.found(part)
        there = sum(place in found for place in places)
        parts[part.name] = {"width": part.width, "top_k": part.top_k, "views": part.views, "shards": there}
        parts[part.name]["of"] = len(places)
    complete = all(part["shards"] == part["of"] for part in parts.values())
    about = {"teacher": manifest.about.get("teacher"), "data": manifest.about.get("data")}
    dtype = next(iter(manifest.parts.values())).dtype
    return {**entry, **about, "samples": manifest.samples, "dtype": dtype, "complete": complete, "parts": parts}


def _age(folder: Path) -> float:
    """Return the days since a cache was last built or replayed."""
    manifest = folder / MANIFEST
    last = (manifest if manifest.exists() else folder).stat().st_mtime
    return round(max(0.0, time.time() - last) / 86400, 3)


def verify_caches(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read every byte of the caches named, or of all, and compare checksums.

    Returns:
        For each "name", "shards" read, "damaged" (a sentence each) and "missing" (a number of shards).

    Raises:
        InputError: there is no cache of that name.
    """
    return [_verified(folder, manifest) for folder, manifest in _named(names).items()]


def _verified(folder: Path, manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        try:
            Manifest.read(folder)
        except Damaged as error:
            return {"name": folder.name, "shards": 0, "damaged": [str(error)], "missing": 0}
    assert manifest is not None
    store = Store(folder, manifest)
    damaged = [why for _, why in store.damaged()]
    if key_of(manifest.decides)[:16] != folder.name[-16:]:
        damaged.insert(0, f"{folder / MANIFEST} was edited: it is not what {folder.name} was made for")
    missing = sum(len(parts) for parts in store.missing().values())
    shards = sum(len(store.found(part)) for part in manifest.parts.values())
    return {"name": folder.name, "shards": shards, "damaged": damaged, "missing": missing}


def prune_caches(names: Sequence[str] = (), days: float = 30.0, dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove the caches named; without names those that are unfinished, unreadable, or unused for ``days``.

    Trained teachers are caches too, see ``kdtool.runs.kept.prune_teachers``. What a run is building at this moment
    stays.

    Args:
        names: of caches, as ``list_caches`` returns them.
        days: since a cache was last built or replayed, or a teacher trained or last taught.
        dry_run: remove nothing.

    Returns:
        For each that went "name", "bytes" and "why".

    Raises:
        InputError: there is no cache of that name.
    """
    teachers = [each["name"] for each in list_teachers() if each["name"] in names]
    others = [name for name in names if name not in teachers]
    outputs = {} if names and not others else _named(others)
    gone = prune_teachers(teachers, days, dry_run) if teachers or not names else []
    for folder, manifest in outputs.items():
        why = "named" if names else _why_prune(folder, manifest, days)
        if why is None:
            continue
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(sole_lock(folder.with_name(folder.name + ".lock"), str(folder)))
            except InputError:
                continue
            gone.append({"name": folder.name, "bytes": bytes_in(folder), "why": why})
            if not dry_run:
                shutil.rmtree(folder)
    return gone


def _why_prune(folder: Path, manifest: Manifest | None, days: float) -> str | None:
    if manifest is None:
        return "its manifest cannot be read"
    logits = manifest.parts.get(LOGITS)
    if logits is None or Store(folder, manifest).missing([logits]):
        return "unfinished"
    age = _age(folder)
    return f"unused for {age:.0f} days" if age >= days else None


def _named(names: Sequence[str]) -> Mapping[Path, Manifest | None]:
    there = read_all(outputs_folder())
    known = {folder.name: folder for folder in there}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no teacher cache {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    return {known[name]: there[known[name]] for name in dict.fromkeys(names)} if names else there
