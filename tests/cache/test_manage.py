"""kdtool cache info, verify and prune."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from kdtool.cache.store import MANIFEST
from kdtool.runs.kept import NOTE
from kdtool.system.locks import sole_lock
from tests.cache.small import build, caches, only, shards
from tests.running import Done, call


def answer(*arguments: object) -> Any:
    """Return what a command says, but for the trained teachers that ``info`` lists beside the caches."""
    done = call("cache", *arguments, "--json")
    assert done.code == 0, done.err
    return [each for each in json.loads(done.out) if each.get("kind") != "teacher"]


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(folder / MANIFEST, (then, then))


def test_without_any_cache_all_say_so(home: Path) -> None:
    assert answer("info") == answer("verify") == answer("prune") == []
    assert "0 teacher caches" in call("cache", "info").out


def test_info_lists_what_is_there(home: Path) -> None:
    build("method=rkd", "cache.shard_rows=50", "cache.top_k=4")
    (entry,) = answer("info")
    assert entry["teacher"] == "test_resnet"
    assert entry["data"] == "digits"
    assert entry["samples"] == 80
    assert entry["complete"]
    assert entry["bytes"] == sum(path.stat().st_size for path in only(home).rglob("*") if path.is_file())
    assert entry["parts"] == {
        "logits": {"width": 10, "top_k": 4, "views": 2, "shards": 4, "of": 4},
        "embedding": {"width": 96, "top_k": None, "views": 2, "shards": 4, "of": 4},
    }
    next(only(home).glob("logits/*.npy")).unlink()
    (entry,) = answer("info")
    assert not entry["complete"]
    assert entry["parts"]["logits"]["shards"] == 3
    shown = " ".join(call("cache", "info").out.split())
    assert "logits (4 of 10)" in shown
    assert "1 teacher cache," in shown


def test_verify_names_what_is_damaged(home: Path) -> None:
    build("method=kd", "cache.shard_rows=30")
    name = only(home).name
    assert answer("verify") == [{"name": name, "shards": 6, "damaged": [], "missing": 0}]
    assert "sound, 6 shards" in call("cache", "verify", name).out
    torn, gone, *_ = sorted(only(home).glob("logits/*.npy"))
    torn.write_bytes(torn.read_bytes()[:-1])
    gone.unlink()
    done = call("cache", "verify")
    assert done.code == 3
    assert torn.name in done.out
    assert "5 shards, 1 lack" in done.out
    assert "1 of 1 teacher caches are damaged" in done.err


def test_verify_knows_an_edited_manifest(home: Path) -> None:
    build("method=kd")
    manifest = only(home) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"precision": "fp32"', '"precision": "bf16"'))
    done = call("cache", "verify", "--json")
    assert done.code == 3
    damaged = json.loads(done.out)[0]["damaged"]
    assert "was edited" in damaged[0]
    assert len(damaged) == 1 + len(shards(only(home)))  # they are not what this manifest would make
    manifest.write_text("{")
    assert "cannot be read" in call("cache", "verify").out


def test_prune_removes_the_unfinished_the_unreadable_and_the_unused(home: Path) -> None:
    for top_k in range(1, 5):
        build("method=kd", f"cache.top_k={top_k}")
    fresh, unused, unfinished, unreadable = caches(home)
    age(unused, 31)
    next(unfinished.glob("logits/*.npy")).unlink()
    (unreadable / MANIFEST).write_text("")
    would = answer("prune", "--dry-run")
    assert {each["name"]: each["why"] for each in would} == {
        unused.name: "unused for 31 days",
        unfinished.name: "unfinished",
        unreadable.name: "its manifest cannot be read",
    }
    assert len(caches(home)) == 4
    assert answer("prune") == would
    assert caches(home) == [fresh]
    age(fresh, 5)
    assert answer("prune", "--days", 6) == []
    build("method=kd", f"cache.top_k={json.loads((fresh / MANIFEST).read_text())['decides']['cache']['top_k']}")
    assert answer("prune", "--days", 4) == []  # it was used again
    assert [each["why"] for each in answer("prune", fresh.name)] == ["named"]
    assert not caches(home)


def test_prune_leaves_what_is_being_built_and_refuses_strangers(home: Path) -> None:
    build("method=kd")
    folder = only(home)
    with sole_lock(folder.with_name(folder.name + ".lock"), "a build"):
        assert answer("prune", folder.name) == []
    for name in ("nothing", "..", "../teachers"):
        done: Done = call("cache", "prune", name)
        assert done.code == 2
        assert "there is no teacher cache" in done.err
    assert folder.exists()
    assert (home / "teachers").exists()


def trained(home: Path, name: str, days: float = 0, complete: bool = True) -> Path:
    """Leave a trained teacher, last used so long ago, in a home without others."""
    teachers = home / "teachers"
    if teachers.is_symlink():
        teachers.unlink()
    folder = teachers / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    file = folder / NOTE if complete else folder
    if complete:
        file.write_text(json.dumps({"teacher": "resnet50", "data": "photos"}))
    os.utime(file, (time.time() - days * 86400,) * 2)
    return folder


def test_trained_teachers_are_listed_and_pruned(home: Path) -> None:
    fresh, unused = trained(home, "resnet50-1"), trained(home, "resnet50-2", 31)
    stopped = trained(home, "resnet50-3.partial", 2, complete=False)
    found = json.loads(call("cache", "info", "--json").out)
    assert [(each["name"], each["teacher"], each["complete"]) for each in found] == [
        (fresh.name, "resnet50", True),
        (unused.name, "resnet50", True),
        (stopped.name, None, False),
    ]
    assert {each["kind"] for each in found} == {"teacher"}
    assert found[0]["bytes"] == 1000 + (fresh / NOTE).stat().st_size
    shown = " ".join(call("cache", "info").out.split())
    assert "3 trained teachers, 3.1 kB" in shown
    assert "0 teacher caches" in shown
    assert [(each["name"], each["why"]) for each in answer("prune")] == [(unused.name, "unused for 31 days")]
    assert not unused.exists()
    with sole_lock(fresh.with_name(fresh.name + ".lock"), "a training"):
        assert answer("prune", fresh.name) == []
    with sole_lock(stopped.with_name("resnet50-3.lock"), "a training"):
        assert answer("prune", "--days", 1) == []
    assert [each["name"] for each in answer("prune", "--days", 1)] == [stopped.name]
    assert "1 trained teacher, " in " ".join(call("cache", "info").out.split())
    assert [each["why"] for each in answer("prune", fresh.name)] == ["named"]
    assert not fresh.exists()


def test_a_teacher_that_teaches_again_counts_as_used(home: Path) -> None:
    build("method=kd")
    notes = list(home.glob(f"teachers/*/{NOTE}"))
    for note in notes:
        os.utime(note, (0, 0))
    build("method=kd", "cache.top_k=3")
    assert sum(note.stat().st_mtime > 0 for note in notes) == 1
    for note in notes:
        note.touch()  # the session's other tests share them
