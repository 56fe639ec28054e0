"""Training sets that are streamed from their shards."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import kdtool
from kdtool.errors import InputError, Interrupted
from kdtool.events import Reporter
from kdtool.recipe.load import load
from kdtool.tasks.common.streams import lanes as streams
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.data.stream_loader import StreamLoader, make_stream_loader
from kdtool.tasks.images.options import Data
from tests.running import Done, call
from tests.tasks.images.data.pictures import picture

LENGTHS = (14, 9, 21, 6, 12)
"""Samples in the shards of the training split, which differ."""

NORM = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def _own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path(os.environ["KDTOOL_HOME"]) / "teachers"
    shared.mkdir(parents=True, exist_ok=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "teachers").symlink_to(shared)
    monkeypatch.setenv("KDTOOL_HOME", str(tmp_path / "home"))


def encoded(number: int) -> bytes:
    content = io.BytesIO()
    picture(number).save(content, "PNG")
    return content.getvalue()


def write_shard(file: Path, count: int, first: int, change: Callable[[int], Mapping[str, bytes]] | None = None) -> None:
    with tarfile.open(file, "w") as shard:
        shard.addfile(_folder("d"))
        for number in range(first, first + count):
            files = change(number) if change else {"json": b"{}", "png": encoded(number), "cls": b"%d" % (number % 3)}
            for kind, content in files.items():
                about = tarfile.TarInfo(f"d/{number:06}.{kind}")
                about.size = len(content)
                shard.addfile(about, io.BytesIO(content))


def _folder(name: str) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type = tarfile.DIRTYPE
    return about


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root, first = tmp_path / "shards", 0
    root.mkdir()
    for number, count in enumerate(LENGTHS):
        write_shard(root / f"train-{number:04}.tar", count, first)
        first += count
    write_shard(root / "test-0000.tar", 8, 500)
    return root


def opened(root: Path, **options: Any) -> DataSet:
    return open_data(Data(name="wds/shards", root=str(root), **options), stream=True)


def loader(
    data: DataSet, part: tuple[int, int] = (0, 1), batch: int = 16, steps: int = 5, **options: Any
) -> StreamLoader:
    cfg = Data(image_size=16, **{"crop": "pad", "flip": 0.5, **options})
    return make_stream_loader(data, cfg, 16, NORM, batch, 0, torch.device("cpu"), steps=steps, part=part)


def batches(of: StreamLoader, epochs: int = 3) -> list[Any]:
    return [batch for epoch in range(epochs) for batch in of.epoch(epoch)]


def same(a: list[Any], b: list[Any]) -> bool:
    parts = ("inputs", "labels", "index")
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(getattr(x, p), getattr(y, p)) for x, y in pairs for p in parts) and all(
        x.view == y.view for x, y in pairs
    )


def test_a_stream_knows_its_samples_and_holds_few(shards: Path) -> None:
    data = opened(shards)
    assert data.stream is not None
    assert len(data.stream) == sum(LENGTHS)
    assert data.stream.lengths == LENGTHS
    assert data.class_names == ["0", "1", "2"]
    assert data.val is None
    assert data.test.labels.tolist() == [number % 3 for number in range(500, 508)]
    assert data.test.images[3].tobytes() == picture(503).tobytes()
    assert (data.native_size, data.grey) == ((16, 20), False)


def test_counting_is_done_once_until_a_shard_changes(shards: Path, tmp_path: Path) -> None:
    first = opened(shards)
    (index,) = (tmp_path / "home" / "streams").glob("*.json")
    written = index.stat().st_mtime_ns
    assert opened(shards).fingerprint == first.fingerprint
    assert index.stat().st_mtime_ns == written
    index.write_text("{")
    assert opened(shards).fingerprint == first.fingerprint
    write_shard(shards / "train-0001.tar", 4, 900)
    again = opened(shards)
    assert again.stream is not None
    assert again.stream.lengths == (14, 4, 21, 6, 12)
    assert again.fingerprint != first.fingerprint


@pytest.mark.parametrize("window", [4, 256])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_lanes_share_the_samples_and_give_each_once_a_pass(
    shards: Path, monkeypatch: pytest.MonkeyPatch, window: int, count: int
) -> None:
    monkeypatch.setattr(streams, "WINDOW", window)
    stream = opened(shards).stream
    assert stream is not None
    lanes = streams.Lanes(stream, count, seed=3)

    def read(lane: int, turn: int) -> list[int]:
        total = int(lanes.bounds[lane + 1] - lanes.bounds[lane])
        found = []
        for number in range(turn * total, (turn + 1) * total):
            at, place = lanes.sample(lane, number)
            assert at.turn == turn
            assert at.size <= window
            found.append(int(stream.first[at.shard]) + at.start + int(lanes.order(at)[place]))
        return found

    passes = [[number for lane in range(count) for number in read(lane, turn)] for turn in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(sum(LENGTHS)))
    assert passes[0] != passes[1]  # drawn anew
    assert {len(read(lane, 0)) - sum(LENGTHS) // count for lane in range(count)} <= {0, 1}


@pytest.mark.parametrize("window", [4, 256])
def test_batches_hold_the_images_they_name(shards: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(streams, "WINDOW", window)
    data = opened(shards)
    plain = loader(data, crop="none", flip=0.0)
    seen: Counter[int] = Counter()
    for batch in batches(plain, 4):
        for image, label, number in zip(batch.inputs, batch.labels.tolist(), batch.index.tolist(), strict=True):
            assert label == number % 3
            want = plain.views.device(plain.views.host(picture(number), number, 0)[None], torch.tensor([number]), 0)
            assert torch.equal(image, want[0])
            seen[number] += 1
    assert set(seen) == set(range(sum(LENGTHS)))
    assert set(seen.values()) <= {5, 6}  # 320 draws of 62 samples


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.5, "cutmix": 1.0}])
def test_neither_workers_nor_processes_change_a_batch(shards: Path, mixed: dict[str, float]) -> None:
    data = opened(shards)
    want = batches(loader(data, **mixed))
    assert {batch.view for batch in want} == {0, 1, 2, 3}
    assert same(batches(loader(data, workers=2, **mixed)), want)
    halves = [batches(loader(data, part=(rank, 2), **mixed)) for rank in range(2)]
    for whole, one, two in zip(want, *halves, strict=True):
        assert torch.equal(torch.cat([one.inputs, two.inputs]), whole.inputs)
        assert torch.equal(torch.cat([one.index, two.index]), whole.index)
        assert torch.equal(torch.cat([one.labels, two.labels]), whole.labels)


def test_an_epoch_goes_on_at_any_batch(shards: Path) -> None:
    data = opened(shards)
    used, want = loader(data), batches(loader(data))
    next(iter(used.epoch(2)))  # a batch that is looked at and thrown away disturbs nothing
    assert same(list(used.epoch(1, 3)), want[8:10])
    assert same(list(used.epoch(0)), want[:5])


def test_views_come_again_where_there_are_so_many(shards: Path) -> None:
    assert {batch.view for batch in batches(loader(opened(shards), views=2))} == {0, 1}


def test_processes_that_cannot_share_the_lanes_are_refused(shards: Path) -> None:
    with pytest.raises(InputError, match=r"4 lanes, which 3 processes cannot share.*multiple of 12"):
        loader(opened(shards), part=(0, 3))


# --- what is wrong with shards ----------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_read_is_named_counted_and_stood_in_for(shards: Path) -> None:
    data = opened(shards, max_bad=0.02)
    write_shard(shards / "train-0002.tar", 21, 23, lambda n: {"png": b"?" if n == 27 else encoded(n), "cls": b"0"})
    found = Counter(number for batch in batches(loader(data)) for number in batch.index.tolist())
    assert 27 not in found
    assert found[28] >= 6  # twice a pass
    ((_, replaced),) = data.unreadable.found.items()
    assert (replaced.row, replaced.by) == (27, 28)
    assert "image 4 of " in replaced.why
    assert "train-0002.tar cannot be read" in replaced.why
    with pytest.raises(InputError, match=r"1 of 62 training images cannot be read, more than data.max_bad=0.001"):
        batches(loader(opened(shards, max_bad=0.001)))


@pytest.mark.parametrize(
    ("files", "words"),
    [({"png": b""}, r"sample 0 of .*has no .cls file"), ({"png": b"", "cls": b"x"}, r"has no .cls file with a class"),
     ({"txt": b"", "cls": b"1"}, r"sample 0 of .*has no image: txt, cls")],
)  # fmt: skip
def test_samples_that_lack_something_are_named(shards: Path, files: dict[str, bytes], words: str) -> None:
    write_shard(shards / "train-0003.tar", 5, 0, lambda number: files)
    with pytest.raises(InputError, match=words):
        opened(shards)


def test_a_shard_that_is_cut_short_is_named(shards: Path) -> None:
    file = shards / "train-0002.tar"
    content = file.read_bytes().rstrip(b"\0")
    for length in range(0, len(content), 1 << 10):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"train-0002.tar cannot be read"):
            opened(shards)


def test_a_shard_that_shrank_since_it_was_counted_is_named(shards: Path) -> None:
    data = opened(shards)
    write_shard(shards / "train-0002.tar", 3, 23)
    with pytest.raises(InputError, match="fewer samples than when it was counted"):
        batches(loader(data))


def test_an_index_of_splits_is_followed(shards: Path) -> None:
    files = ["train-0001.tar", "train-0003.tar"]
    splits = {"train": {"filenames": files}, "validation": {"filenames": ["test-0000.tar"]}}
    (shards / "_info.json").write_text(json.dumps({"splits": splits}))
    data = opened(shards)
    assert data.stream is not None
    assert data.stream.lengths == (9, 6)
    assert len(data.test.labels) == 8
    splits["train"]["filenames"].append("gone.tar")
    (shards / "_info.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(InputError, match=r"gone.tar is no file"):
        opened(shards)


@pytest.mark.parametrize(
    "option",
    [{"labels_per_class": 2}, {"exclude_classes": ["1"]}, {"unlabelled": "x"}, {"sampler": "class-uniform"}],
)
def test_options_that_choose_samples_are_refused(shards: Path, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"data.{next(iter(option))}=.*of a stream"):
        opened(shards, **option)


def test_what_it_is_tested_on_has_to_fit_and_to_be_there(shards: Path) -> None:
    with pytest.raises(InputError, match="memory_budget_gb"):
        opened(shards, memory_budget_gb=1e-6)
    (shards / "test-0000.tar").unlink()
    with pytest.raises(InputError, match="needs a test split of its own"):
        opened(shards)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def test_hugging_faces_shards(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is an extra: pip install 'kdtool[hfds]'")
    from tests.tasks.images.data.test_parquet import write_parquet

    for number in range(3):
        labels = [0, 1, 1, 0, 1]
        write_parquet(
            tmp_path / f"set/data/train-0000{number}-of-00003.parquet", labels, 5 * number, names=["cat", "dog"]
        )
    write_parquet(tmp_path / "set/data/test-00000-of-00001.parquet", [1, 0], 50, names=["cat", "dog"])
    cfg = Data(name=f"hfids/{tmp_path}/set", root=str(tmp_path / "cache"))
    data = open_data(cfg, stream=True)
    assert data.stream is not None
    assert data.stream.lengths == (5, 5, 5)
    assert data.class_names == ["cat", "dog"]
    assert data.test.labels.tolist() == [1, 0]
    plain = loader(data, batch=12, crop="none", flip=0.0)
    for batch in batches(plain):
        assert batch.labels.tolist() == [[0, 1, 1, 0, 1][number % 5] for number in batch.index.tolist()]
        for image, number in zip(batch.inputs, batch.index.tolist(), strict=True):
            want = plain.views.device(plain.views.host(picture(number), number, 0)[None], torch.tensor([number]), 0)
            assert torch.equal(image, want[0])
    assert same(list(plain.epoch(1, 2)), batches(plain)[7:10])


# --- whole runs -------------------------------------------------------------------------------------------------------


def run(root: Path, folder: Path, *arguments: object) -> Done:
    common = ["--data", "wds/shards", f"data.root={root}", "--device", "cpu", "--batch-size", "8", "--lr", "0.003"]
    return call("run", *common, "--out", folder, *arguments, folder=folder)


STUDENT = ("--method", "none", "--student", "test_resnet", "train.steps=6", "--epochs", "2", "data.image_size=32")


@pytest.mark.slow
def test_a_run_spends_its_steps_and_its_student_teaches_the_next(shards: Path, tmp_path: Path) -> None:
    first = run(shards, tmp_path / "first", *STUDENT, "data.crop=resized", "data.workers=2")
    assert first.code == 0, first.err
    assert first.result["steps"] == 6
    assert first.result["data"]["train"] == sum(LENGTHS)
    assert "streamed from 5 shards" in first.out
    weights = ("--teacher", "test_resnet", "--teacher-weights", tmp_path / "first/student/model.safetensors")
    rest = ("--student", "test_efficientnet", "train.steps=5", "--epochs", "2", "teacher.check=off", "data.views=2")
    done = run(shards, tmp_path / "second", *weights, *rest, "--method", "rkd+kd", "--teacher-cache")
    assert done.code == 0, done.err
    assert "no outputs are kept or replayed: the samples of a stream pass by" in done.out
    assert done.result["steps"] == 6  # five steps in two equal parts
    for arguments, words in [
        (("--method", "crd"), "the method reads setup.num_samples"),
        (("--method", "rkd+crd"), "the method reads setup.num_samples"),
        (("cache.mode=require",), "nothing is kept for the samples of a stream"),
        (("train.steps=1",), "train.steps=1 is less than train.epochs=2"),
        (("--teacher", "test_resnet", "--teacher-weights", "scratch"), "would have to be trained on a stream"),
        (("--data", "digits"), "the budget of a stream"),
    ]:
        given = rest if "--teacher-weights" in arguments else (*weights, *rest)
        refused = run(shards, tmp_path / "refused", *given, *arguments)
        assert refused.code == 2, refused.out
        assert words in refused.err
        assert not (tmp_path / "refused").exists()


class Stopper(Reporter):
    """Asks for a stop after the first epoch."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_goes_on_to_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    whole, stopped = run(shards, tmp_path / "whole", *STUDENT), tmp_path / "stopped"
    again = load(whole.folder / "recipe.yaml", flags={"out": str(stopped)})
    with pytest.raises(Interrupted):
        kdtool.run(again, reporter=Stopper())
    resumed = kdtool.run(resume=stopped)
    assert resumed.values["steps"] == 6
    assert (stopped / "student/model.safetensors").read_bytes() == whole.file()
