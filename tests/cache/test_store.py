"""Shards that are torn, changed or misplaced are found, and what differs in a manifest is named."""

from __future__ import annotations

import copy
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdtool.cache.build import refuse_without_room
from kdtool.cache.part import Part
from kdtool.cache.replay import Outputs
from kdtool.cache.store import MANIFEST, Manifest, Place, Store, problems
from kdtool.errors import InputError, RunError
from tests.cache.small import stored


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stored(tmp_path / "cache")


def part_of(store: Store) -> Part:
    return store.manifest.parts["logits"]


def shard(store: Store, view: int, block: int) -> Path:
    return store.found(part_of(store))[Place(view, block)]


def test_what_was_written_is_sound_and_complete(store: Store) -> None:
    assert not list(store.damaged())
    assert not store.missing()
    assert len(store.found(part_of(store))) == 6


def test_a_shard_cut_short_anywhere_is_found_without_reading_it(tmp_path: Path) -> None:
    store = stored(tmp_path / "wide", samples=120, shard_rows=120, views=1, width=64)
    path = shard(store, 0, 0)
    content = path.read_bytes()
    assert len(content) > 30 << 10
    for length in range(0, len(content), 1 << 10):
        path.write_bytes(content[:length])
        for whole in (False, True):
            ((found, why),) = store.damaged(whole)
            assert found == path
            assert path.name in why
    path.write_bytes(content + b"x")
    assert len(list(store.damaged(whole=False))) == 1


def test_a_flipped_bit_is_found_wherever_it_is(store: Store) -> None:
    path = shard(store, 1, 2)
    content = path.read_bytes()
    for at in range(0, len(content), 37):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        assert [found for found, _ in store.damaged()] == [path]


@pytest.mark.parametrize("other", [(0, 1), (1, 0)])
def test_swapped_shards_are_found_by_content_and_by_name(store: Store, other: tuple[int, int]) -> None:
    one, two = shard(store, 0, 0), shard(store, *other)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert {path for path, _ in store.damaged()} == {one, two}
    one.write_bytes(first)
    two.write_bytes(second)
    # Renamed to each other's place, checksums and all.
    places = [path.name.rsplit("-", 1)[0] for path in (one, two)]
    digests = [path.name.rsplit("-", 1)[1] for path in (one, two)]
    renamed = [one.with_name(f"{places[0]}-{digests[1]}"), one.with_name(f"{places[1]}-{digests[0]}")]
    one.rename(renamed[1])
    two.rename(renamed[0])
    assert {path for path, _ in store.damaged()} == set(renamed)


def test_a_shard_of_another_cache_is_found(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", Manifest({"teacher": {"weights": "v"}}, store.manifest.parts, 90, 40))
    strange = shard(store, 0, 0)
    other.write(part_of(store), Place(0, 0), np.load(strange))
    copied = shard(other, 0, 0)
    strange.unlink()
    copied.rename(strange.with_name(copied.name))
    assert [path.name for path, _ in store.damaged()] == [copied.name]


def test_what_is_not_a_shard_is_passed_over(store: Store) -> None:
    folder = shard(store, 0, 0).parent
    for name in ("view0009.npy", ".view0000-block000000-0123456789abcdef.npy.1.tmp", "notes.txt"):
        (folder / name).write_text("?")
    assert not list(store.damaged())
    store.sweep()
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("resident", [True, False])
def test_rows_come_back_in_any_order(store: Store, resident: bool) -> None:
    part = part_of(store)
    outputs = Outputs(store, part, resident, torch.device("cpu"), torch.float32)
    index = torch.tensor([89, 0, 41, 40, 39, 41])
    for view in (0, 1):
        files = [np.load(shard(store, view, block))["values"] for block in range(3)]
        assert torch.equal(outputs(index, view), torch.from_numpy(np.concatenate(files))[index])


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 4 KiB: the system refuses as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_says_so_and_leaves_nothing(store: Store, small_files: None) -> None:
    part = Part("embedding", 2000, "fp32", 1)
    with pytest.raises(RunError, match=r"cannot write the teacher cache .* finished stay"):
        store.write(part, Place(0, 0), part.encode(torch.zeros(40, 2000)))
    assert not list((store.folder / "embedding").iterdir())


def test_a_cache_larger_than_the_disk_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    part = Part("logits", 1000, "fp16", 4)
    store = Store(tmp_path / "cache", Manifest({}, {"logits": part}, 10**15, 10**15))
    with pytest.raises(InputError, match=rf"needs {4 * 10**15 * 2000} bytes and .* has \d+ free"):
        refuse_without_room(store, store.missing())
    assert not store.folder.exists()


# --- the manifest -----------------------------------------------------------------------------------------------------


def entries(section: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from entries(value, (*path, name))
        else:
            yield (*path, name)


def test_the_manifest_comes_back(store: Store) -> None:
    assert Manifest.read(store.folder) == store.manifest


def test_every_entry_that_differs_is_named(store: Store) -> None:
    wanted = copy.deepcopy(store.manifest)
    assert not problems(store.folder, wanted)
    for path in entries(wanted.decides):
        plain = json.loads((store.folder / MANIFEST).read_text())
        section = plain["decides"]
        for name in path[:-1]:
            section = section[name]
        section[path[-1]] = "another"
        (store.folder / MANIFEST).write_text(json.dumps(plain))
        ((found),) = problems(store.folder, wanted)
        assert ".".join(path) in found
        assert "another" in found
        wanted.write(store.folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 91}, "samples is 91, wanted 90"),
        ({"parts": [{"name": "logits", "width": 11, "dtype": "fp32", "views": 2, "top_k": None}]}, "logits are kept"),
        ({"parts": [{"name": "logits", "width": 12, "dtype": "fp16", "views": 2, "top_k": None}]}, "logits are kept"),
        ({"parts": [{"name": "logits", "width": 12, "dtype": "fp32", "views": 2, "top_k": 3}]}, "logits are kept"),
        ({"parts": [{"name": "logits", "width": 12, "dtype": "fp32", "views": 1, "top_k": None}]}, "holds 1 views"),
        ({"parts": [{"name": "other", "width": 12, "dtype": "fp32", "views": 2, "top_k": None}]}, "not hold logits"),
        ({"parts": []}, "cannot be read"),
        ({"parts": 3}, "cannot be read"),
        ({"shard_rows": 0}, "cannot be read"),
        ({"unknown": 0}, "cannot be read"),
    ],
)
def test_what_else_the_manifest_says_is_checked_too(store: Store, change: dict[str, Any], words: str) -> None:
    plain = json.loads((store.folder / MANIFEST).read_text())
    (store.folder / MANIFEST).write_text(json.dumps({**plain, **change}))
    assert words in " ".join(problems(store.folder, store.manifest))


def test_another_number_of_rows_in_a_shard_is_found(store: Store) -> None:
    store.manifest.shard_rows = 45
    assert len(list(store.damaged(whole=False))) == 4  # blocks 0 and 1 of either view; there is no block 2


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"parts": []}'])
def test_a_torn_manifest_is_named(store: Store, text: str) -> None:
    (store.folder / MANIFEST).write_text(text)
    assert "manifest.json cannot be read" in problems(store.folder, store.manifest)[0]
