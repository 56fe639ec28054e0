"""Caches of digits, made by the command line, and what lies in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from kdtool.cache.part import Part
from kdtool.cache.store import Manifest, Store
from tests.running import OVERRIDES, STUDENT, TEACHER, Done, call

VIEWS = ("data.views=2", "data.labels_per_class=8")
"""What all runs here train on: 80 samples in two views."""

BUILD = [
    "train.device=cpu",
    f"teacher={TEACHER}",
    f"student={STUDENT}",
    *OVERRIDES,
    *VIEWS,
]


def build(*arguments: object) -> Done:
    """Run ``kdtool cache build`` and assert that it succeeds."""
    done = call("cache", "build", *BUILD, *arguments)
    assert done.code == 0, done.err
    return done


def caches(home: Path) -> list[Path]:
    return sorted(path for path in (home / "outputs").iterdir() if path.is_dir())


def only(home: Path) -> Path:
    (folder,) = caches(home)
    return folder


def shards(folder: Path) -> dict[str, str]:
    """Return each shard's name below a cache and its content's digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.npy"))
    }


def stored(folder: Path, samples: int = 90, shard_rows: int = 40, views: int = 2, width: int = 12) -> Store:
    """Write a cache of random logits and return it."""
    part = Part("logits", width, "fp32", views)
    manifest = Manifest(
        {"teacher": {"weights": "w"}, "data": {"fingerprint": "f"}}, {part.name: part}, samples, shard_rows
    )
    folder.mkdir()
    manifest.write(folder)
    store = Store(folder, manifest)
    draw = torch.Generator().manual_seed(0)
    for place in manifest.places(part):
        store.write(part, place, part.encode(torch.randn(len(manifest.samples_of(place)), width, generator=draw)))
    return store
