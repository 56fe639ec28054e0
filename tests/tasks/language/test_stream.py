"""Chats and texts that pass by: which samples form a batch, what is held, and what is wrong with shards."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("pyarrow", reason="pyarrow is an extra: pip install 'kdtool[parquet]'")

from kdtool.engine.job import Loaded
from kdtool.errors import InputError, RunError
from kdtool.tasks.common.streams import lanes
from kdtool.tasks.language.data import shards, stream
from kdtool.tasks.language.data.batches import Maker
from kdtool.tasks.language.data.chats import Writer
from kdtool.tasks.language.data.dataset import LanguageData, Split
from kdtool.tasks.language.data.encode import tokenize
from kdtool.tasks.language.data.read import read
from kdtool.tasks.language.data.shards import Passing
from kdtool.tasks.language.data.stream_batches import StreamBatches
from kdtool.tasks.language.data.twin import met_by_all, twin_of
from kdtool.tasks.task import Reading
from tests.tasks.language.corpus import LENGTHS, corpus, lines_of, write
from tests.tasks.language.small import TASK, recipe, saved, tokens, unigram

LONGEST = 64


pytestmark = pytest.mark.usefixtures("own_home")  # where shards are counted anew


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return corpus(tmp_path / "corpus")


def opened(folder: Path, **more: Any) -> LanguageData:
    data: LanguageData = TASK.open(recipe(folder, train__steps=100, **more))
    return data


def batches(
    data: LanguageData, part: tuple[int, int] = (0, 1), batch: int = 16, steps: int = 5, workers: int = 0, **more: Any
) -> StreamBatches:
    cfg = recipe("corpus", data__workers=workers, **more).data
    return StreamBatches(data, cfg, Reading(batch, 0, torch.device("cpu"), True, part, steps), {})


def some(of: StreamBatches, epochs: int = 2) -> list[Loaded]:
    return [batch for epoch in range(epochs) for batch in of.epoch(epoch)]


def samples(batch: Loaded) -> Iterator[tuple[int, list[int], list[int], list[int]]]:
    """Yield each sample's number, tokens, and the places and labels of its rows, however the batch is padded."""
    assert batch.rows is not None
    inputs, start = batch.inputs, 0
    for ids, following, length, count in zip(
        inputs["ids"], inputs["next"], inputs["lengths"].tolist(), batch.rows, strict=True
    ):
        index, labels = batch.index[start : start + count], batch.labels[start : start + count]
        start += count
        (number,) = set((index // LONGEST).tolist())
        assert (following.nonzero().squeeze(1) + 1).tolist() == (index % LONGEST).tolist()
        assert not following[length - 1 :].any()
        yield number, ids[:length].tolist(), (index % LONGEST).tolist(), labels.tolist()


def plain(of: list[Loaded]) -> list[Any]:
    return [(batch.view, list(samples(batch))) for batch in of]


# --- which samples form a batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [4, 256])
def test_batches_hold_the_samples_they_name(folder: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(lanes, "WINDOW", window)
    data = opened(folder)
    assert data.stream is not None
    assert data.stream.lengths == LENGTHS
    every = [each for file in sorted(folder.glob("train*")) for each in read(file).samples]
    want, _ = tokenize(every, data.writer, LONGEST)
    seen: Counter[int] = Counter()
    for batch in some(batches(data), 5):
        for number, ids, places, labels in samples(batch):
            own, learnt = want[number]
            assert ids == own.tolist()
            assert places == learnt.nonzero()[0].tolist()
            assert labels == own[learnt].tolist()
            seen[number] += 1
    assert set(seen) == set(range(sum(LENGTHS)))
    assert set(seen.values()) <= {7, 8, 9}  # 400 draws of 50 samples


def test_neither_workers_nor_processes_change_a_batch(folder: Path) -> None:
    data = opened(folder)
    want = plain(some(batches(data)))
    assert {view for view, _ in want} == {0, 1, 2}
    assert plain(some(batches(data, workers=2))) == want
    halves = [plain(some(batches(data, part=(rank, 2), workers=rank))) for rank in range(2)]
    assert [(view, one + two) for (view, one), (_, two) in zip(*halves, strict=True)] == want
    other = StreamBatches(data, recipe("corpus").data, Reading(16, 1, torch.device("cpu"), True, steps=5), {})
    assert plain(some(other)) != want


def test_an_epoch_goes_on_at_any_batch(folder: Path) -> None:
    data = opened(folder)
    used, want = batches(data), plain(some(batches(data)))
    next(iter(used.epoch(1)))  # a batch that is looked at and thrown away disturbs nothing
    assert plain(list(used.epoch(1, 3))) == want[8:10]
    assert plain(list(used.epoch(0))) == want[:5]


def test_processes_that_cannot_share_the_lanes_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"4 lanes, which 3 processes cannot share.*multiple of 12"):
        batches(opened(folder), part=(0, 3))


def test_teachers_of_other_tokens_read_the_same_samples(folder: Path) -> None:
    data, theirs = opened(folder), unigram(lines_of(folder.parent / "more", 60))
    every = [each for file in sorted(folder.glob("train*")) for each in read(file).samples]
    found, _ = tokenize(every, data.writer, LONGEST, placed=True)
    twin = twin_of(found, every, Writer(theirs, "auto", "completion"), theirs.size, None)
    held = Maker(Split(found, torch.arange(len(found)).numpy()), {"key": twin})
    cfg = recipe("corpus").data
    of = StreamBatches(
        LanguageData(**{**vars(data), "twins": {"other": twin}}), cfg,
        Reading(8, 0, torch.device("cpu"), True, steps=3), {"key": twin},
    )  # fmt: skip
    for batch in of.epoch(0):
        numbers = [number for number, *_ in samples(batch)]
        want = held(torch.tensor(numbers), 0)
        for name, tensor in want["key"].items():
            assert torch.equal(batch.inputs["key"][name], tensor)
        assert batch.taught is not None
        taught = met_by_all(found, torch.tensor(numbers).numpy(), {"key": twin})
        assert batch.taught.tolist() == taught.tolist()
        assert 0 < taught.sum() < len(taught)


# --- what is read and held --------------------------------------------------------------------------------------------


def longer(folder: Path, kind: str, count: int = 600) -> Path:
    """Write one shard of a kind, and a test split."""
    lines = lines_of(folder.parent / "lines", count)
    if kind == ".txt":
        folder.mkdir()
        turns = [json.loads(line)["messages"] for line in lines]
        text = "\n\n".join(f"{each[0]['content']}\n{each[1]['content']}" for each in turns)
        (folder / "train-001.txt").write_text(text + "\n")
    else:
        write(folder / f"train-001{kind}", lines)
    write(folder / "test.jsonl", lines[:5])
    return folder


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".parquet", ".txt"])
def test_a_lane_goes_on_in_the_middle_without_reading_what_lies_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(lanes, "WINDOW", 8)
    monkeypatch.setattr(shards, "APART", 10)
    monkeypatch.setattr(stream, "LOOKED_AT", 20)
    found, count = longer(tmp_path / "corpus", kind), Counter[str]()

    def counting(inner: Any) -> Any:
        def every(given: Any) -> Iterator[Any]:
            for each in inner(given):
                count["read"] += 1
                yield each

        return every

    for name in ("entries", "paragraphs"):
        monkeypatch.setattr(shards, name, counting(getattr(shards, name)))
    data = opened(found)
    assert data.stream is not None
    assert count["read"] >= 600 + 20  # counted, and looked at
    whole = some(batches(data, steps=20), 1)
    count.clear()
    of = batches(data, steps=20)
    assert of.plan.lanes == 4
    last = next(iter(of.epoch(0, 18)))
    assert plain([last]) == plain(whole[18:19])
    assert count["read"] <= 4 * (8 + 10 + 1)
    count.clear()
    assert opened(found).fingerprint == data.fingerprint  # its index is kept
    assert count["read"] <= 20 + 1


def test_windows_are_all_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WINDOW", 8)
    monkeypatch.setattr(stream, "LOOKED_AT", 20)
    data = opened(longer(tmp_path / "corpus", ".jsonl"))
    assert len(data.raw) == 20 + 5
    held = []
    for step, _ in enumerate(batches(data, steps=40).epoch(0)):
        if step % 13 == 0:
            gc.collect()
            held.append(sum(type(each) is Passing for each in gc.get_objects()))
    assert 4 * 4 <= min(held) <= max(held) <= 4 * (8 + 2)


@pytest.mark.parametrize("lengths", [(3, 40), (40, 3)])
def test_long_texts_show_all_their_pieces_in_turn(tmp_path: Path, lengths: tuple[int, int]) -> None:
    texts = [" ".join(f"word{row} {place} and so on" for place in range(length)) for row, length in enumerate(lengths)]
    found = tmp_path / "corpus"
    write(found / "train.jsonl", [json.dumps({"text": text}) for text in texts])
    write(found / "test.jsonl", [json.dumps({"text": "word0 and so on"})])
    data = opened(found, data__max_length=16)
    assert data.stream is not None
    want, _ = tokenize(texts, data.writer, 16)
    pieces = [{tuple(want[row][0].tolist()) for row in range(len(want)) if want.sources[row] == text}
              for text in range(2)]  # fmt: skip
    assert len(data.stream) == sum(-(-len(text) // 64) for text in texts) < len(want)
    seen: dict[int, set[tuple[int, ...]]] = {0: set(), 1: set()}
    counts = [-(-len(text) // 64) for text in texts]
    for batch in some(batches(data, batch=4, steps=30, data__max_length=16)):
        start = 0
        for ids, length, rows in zip(
            batch.inputs["ids"].tolist(), batch.inputs["lengths"].tolist(), batch.rows or (), strict=True
        ):
            number = int(batch.index[start]) // 16
            start += rows
            seen[0 if number < counts[0] else 1].add(tuple(ids[:length]))
    assert [seen[0], seen[1]] == pieces


def test_a_resumed_pass_shows_the_same_pieces(tmp_path: Path) -> None:
    found = tmp_path / "corpus"
    texts = [" ".join(f"word{row} {place} and so on" for place in range(9 + row)) for row in range(9)]
    write(found / "train.jsonl", [json.dumps({"text": text}) for text in texts])
    write(found / "test.jsonl", [json.dumps({"text": "word0 and so on"})])
    data = opened(found, data__max_length=16)
    whole = some(batches(data, batch=4, steps=30, data__max_length=16))
    (again,) = list(batches(data, batch=4, steps=30, data__max_length=16).epoch(1, 29))
    assert torch.equal(again.inputs["ids"], whole[-1].inputs["ids"])
    assert torch.equal(again.index, whole[-1].index)


# --- what is wrong with samples and shards ----------------------------------------------------------------------------


def test_bad_lines_are_counted_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    file = folder / "train-001.jsonl"
    file.write_text("not JSON\n" + file.read_text() + "{}\n")
    with pytest.raises(InputError, match=r"train-001.jsonl, line 1: it is not JSON.*Of 52 lines in all, 2 are bad"):
        opened(folder)
    data = opened(folder, data__max_bad=0.1)
    assert data.stream is not None
    assert data.stream.lengths == LENGTHS
    data.list_faults(tmp_path)
    listed = [json.loads(line) for line in (tmp_path / "bad-lines.jsonl").read_text().splitlines()]
    assert [(each["split"], each["line"]) for each in listed] == [("training", 1), ("training", 19)]
    assert {number for batch in some(batches(data)) for number, *_ in samples(batch)} == set(range(50))


def test_what_the_template_refuses_is_found_as_it_passes_and_stood_in_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOKED_AT", 3)
    turns = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "yes"}]
    write(folder / "train-001.jsonl", [*lines_of(tmp_path / "more", 16), json.dumps({"messages": turns})])
    data = opened(folder, data__max_bad=0.02)
    data.list_faults(tmp_path)
    seen = Counter(number for batch in some(batches(data), 4) for number, *_ in samples(batch))
    assert 16 not in seen
    assert set(seen) == {*range(16), *range(17, 50)}
    (listed,) = [json.loads(line) for line in (tmp_path / "bad-lines.jsonl").read_text().splitlines()]
    assert (listed["line"], listed["file"]) == (17, str(folder / "train-001.jsonl"))
    assert "which the chat template ends turns with" in listed["why"]
    strict = opened(folder, data__max_bad=0.01)
    with pytest.raises(InputError, match=r"Of 50 samples in all, 1 were bad so far, more than data.max_bad=0.01"):
        some(batches(strict), 4)
    strict = opened(folder, data__max_bad=0.01)
    strict.list_faults(tmp_path / "home")
    with pytest.raises(RunError, match=r"data.max_bad=0.01"):
        some(batches(strict), 4)


def test_a_stream_that_begins_with_what_the_template_refuses_is_refused(folder: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "yes"}]
    write(folder / "train-001.jsonl", [json.dumps({"messages": turns}), *lines_of(tmp_path / "more", 16)])
    with pytest.raises(InputError, match=r"sample 1: it holds '<|im_end|>'.*more than data.max_bad=0.01"):
        opened(folder)
    data = opened(folder, data__max_bad=0.02)
    some(batches(data), 4)
    assert len(data.bad) == 1  # listed once, though it was seen twice


def test_what_is_cut_is_counted_as_it_passes(folder: Path) -> None:
    data = opened(folder, data__max_length=32)
    assert "of what is held: " in "\n".join(data.notes)
    assert data.faults() is None
    every = [each for file in sorted(folder.glob("train*")) for each in read(file).samples]
    _, cuts = tokenize(every, data.writer, 32)
    assert cuts.samples > 10
    for _ in batches(data, batch=4, steps=50, data__max_length=32).epoch(0):  # four passes, less what is held
        pass
    assert data.passed.samples == 4 * 50
    assert data.passed.cuts.samples == 4 * cuts.samples
    assert f"of 200 samples that passed since the run was last started, {4 * cuts.samples:,} samples were longer than "\
           f"data.max_length=32 and lost {4 * cuts.tokens:,} tokens" in str(data.faults())  # fmt: skip


def test_a_shard_that_changes_is_refused_or_counted_anew(folder: Path, tmp_path: Path) -> None:
    data = opened(folder)
    (index,) = (tmp_path / "home" / "streams").glob("*.json")
    written = index.stat().st_mtime_ns
    assert opened(folder).fingerprint == data.fingerprint
    assert index.stat().st_mtime_ns == written
    file = folder / "train-002.jsonl.gz"
    about = file.stat()
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    with pytest.raises(InputError, match=r"train-002.jsonl.gz was changed since its samples were counted"):
        some(batches(data))
    write(file, lines_of(tmp_path / "more", 4))
    again = opened(folder)
    assert again.stream is not None
    assert again.stream.lengths == (17, 4, 20)
    assert again.fingerprint != data.fingerprint


def test_a_shard_that_is_cut_short_or_empty_is_named(folder: Path) -> None:
    file = folder / "train-002.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"train-002.jsonl.gz cannot be unpacked"):
        opened(folder)
    file.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"train-002.jsonl.gz cannot be unpacked"):
        opened(folder)
    file.unlink()
    (folder / "train-004.txt").write_text("\n\n")
    with pytest.raises(InputError, match=r"train-004.txt holds no samples"):
        opened(folder)


def test_shards_lie_in_their_splits_folder_as_well(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "train").mkdir(parents=True)
    for number, file in enumerate(sorted(folder.glob("train*"))):
        file.rename(other / "train" / f"{'abc'[number]}{''.join(file.suffixes)}")
    (folder / "test.jsonl").rename(other / "test.jsonl")
    data = opened(other)
    assert data.stream is not None
    assert data.stream.lengths == LENGTHS
    assert data.val is None  # nothing is held out of a stream
    write(other / "validation.jsonl", lines_of(tmp_path / "val", 4))
    assert len(opened(other).val or ()) == 4
    write(other / "train.jsonl", lines_of(tmp_path / "more", 3))
    with pytest.raises(InputError, match="split 'train' is there twice"):
        opened(other)


def test_the_same_shard_in_two_kinds_is_refused(folder: Path, tmp_path: Path) -> None:
    write(folder / "train-001.parquet", lines_of(tmp_path / "more", 3))
    with pytest.raises(InputError, match=r"split 'train' is there twice, as train-001.jsonl and train-001.parquet"):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [("pydocs", "the budget of a stream .data.name=FOLDER"), ("hf/some", "the budget of a stream"),
     ("{}/test.jsonl", "is one file: a stream .* is a folder"), ("{}/none", "is no folder: a stream")],
)  # fmt: skip
def test_what_is_no_folder_of_shards_is_refused(folder: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        opened(Path(name.format(folder)))


def test_what_it_is_tested_on_has_to_fit_and_to_be_there(folder: Path) -> None:
    with pytest.raises(InputError, match="memory_budget_gb"):
        opened(folder, data__memory_budget_gb=1e-9)
    (folder / "test.jsonl").unlink()
    with pytest.raises(InputError, match="a stream needs a test split of its own"):
        opened(folder)


def test_a_network_that_lacks_a_token_of_a_sample_is_told_of_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOKED_AT", 3)
    place = saved(tmp_path / "model", tokens())
    data = opened(folder, student__model=str(place), student__model_args={}, teacher__model=str(place),
                  teacher__model_args={})  # fmt: skip
    fewer = LanguageData(**{**vars(data), "class_names": list(data.class_names)[:200]})
    with pytest.raises(InputError, match="that all networks know"):
        some(batches(fewer))
