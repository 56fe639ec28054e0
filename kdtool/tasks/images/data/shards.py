"""Data sets in shards that are read from front to back: WebDataset's tar files, Hugging Face's iterable data sets."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdtool.errors import InputError
from kdtool.tasks.common.streams import stream
from kdtool.tasks.images.data.decode import endings

Sample = tuple[bytes, int]
"""An encoded image and its class, -1 for none."""


class Shards(stream.Shards[Sample], Protocol):
    """A split in shards of images; a sample without a class cannot be read.

    Attributes:
        class_names: None where the data set has none.
    """

    class_names: list[str] | None

    def labels(self, shard: int) -> Iterator[int]:
        """Yield the samples' classes, without reading images."""
        ...


class TarShards:
    """WebDataset's format: a sample's files stand together and share their name up to the first dot; ``.cls`` holds
    the class as a number.

    Args:
        paths: the tar files.
    """

    def __init__(self, paths: list[Path]):
        self.paths, self.names = paths, [str(path) for path in paths]
        self.keys = [f"{path.name}|{(stat := path.stat()).st_size}|{stat.st_mtime_ns}" for path in paths]
        self.class_names: list[str] | None = None

    def read(self, shard: int, start: int) -> Iterator[Sample]:
        for number, (tar, files) in enumerate(self._samples(shard)):
            if number >= start:
                image = next((file for kind, file in files.items() if f".{kind}" in endings()), None)
                if image is None:
                    raise InputError(f"sample {number} of {self.names[shard]} has no image: {', '.join(files)}.")
                yield _content(tar, image), self._label(tar, files, shard, number)

    def labels(self, shard: int) -> Iterator[int]:
        for number, (tar, files) in enumerate(self._samples(shard)):
            yield self._label(tar, files, shard, number)

    def _label(self, tar: tarfile.TarFile, files: dict[str, tarfile.TarInfo], shard: int, number: int) -> int:
        try:
            return int(_content(tar, files["cls"]))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"sample {number} of {self.names[shard]} has no .cls file with a class number: {', '.join(files)}."
            ) from error

    def _samples(self, shard: int) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
        try:
            with tarfile.open(self.paths[shard], "r:") as tar:
                name, files = "", dict[str, tarfile.TarInfo]()
                members: list[tarfile.TarInfo] = tar.members  # type: ignore[attr-defined]
                while (member := tar.next()) is not None:
                    members.clear()  # it would remember all of them
                    if not member.isfile():
                        continue
                    folder, _, file = member.name.rpartition("/")
                    stem, _, kind = file.partition(".")
                    if files and f"{folder}/{stem}" != name:
                        yield tar, files
                        files = {}
                    name = f"{folder}/{stem}"
                    files[kind.lower()] = member
                tar.fileobj.seek(tar.offset)
                if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it is cut short")
                if files:
                    yield tar, files
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"the shard {self.names[shard]} cannot be read ({error}).") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@dataclass
class _Columns:
    image: str
    label: str


class HubShards:
    """A split of ``datasets``, streamed.

    Args:
        name: of the data set, or its folder.
        split: of it.
        cache_dir: where ``datasets`` keeps what it fetches.
    """

    def __init__(self, name: str, split: str, cache_dir: str | None):
        import datasets

        whole = datasets.load_dataset(name, split=split, streaming=True, cache_dir=cache_dir)
        features = whole.features or {}
        self.columns = _columns(features, f"{name} ({split})")
        label = features[self.columns.label]
        self.class_names: list[str] | None = list(label.names) if isinstance(label, datasets.ClassLabel) else None
        self.dataset = whole.cast_column(self.columns.image, datasets.Image(decode=False))
        self.count = int(self.dataset.num_shards)
        self.names = [f"{name} ({split}), shard {number}" for number in range(self.count)]
        files = _files(Path(name)) if Path(name).is_dir() else str(whole.info.version)
        self.keys = [f"{name}|{split}|{number}|{self.count}|{files}" for number in range(self.count)]

    def read(self, shard: int, start: int) -> Iterator[Sample]:
        for example in self._shard(self.dataset, shard).skip(start):
            image, label = example[self.columns.image], example[self.columns.label]
            data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            yield data, -1 if label is None else int(label)

    def labels(self, shard: int) -> Iterator[int]:
        for example in self._shard(self.dataset.select_columns([self.columns.label]), shard):
            label = example[self.columns.label]
            yield -1 if label is None else int(label)

    def _shard(self, dataset: Any, shard: int) -> Any:
        return dataset.shard(num_shards=self.count, index=shard)


def _columns(features: Any, origin: str) -> _Columns:
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = next((name for name in ("label", *classes) if name in features), None)
    if not images or label is None:
        raise InputError(f"--data: {origin} needs a column of images and one of classes; it has {list(features)}.")
    return _Columns(images[0], label)


def _files(folder: Path) -> list[tuple[str, int, int]]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(os.path.relpath(path, folder), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in found]
