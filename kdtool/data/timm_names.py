"""Data sets by the names of ``timm.data.create_dataset``: torch/…, hfds/…, hfids/…, wds/…, tfds/…."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from kdtool.data.sources import Source, Split
from kdtool.errors import InputError
from kdtool.schema import Data

EXTRAS = {"datasets": "hfds", "webdataset": "wds"}
"""Which of kdtool's extras brings a package that a reader of timm's needs."""


@dataclass(frozen=True)
class MapImages:
    """The images of a data set that is read by number."""

    dataset: Any
    name: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Image.Image:
        try:
            image: Image.Image = self.dataset[row][0]
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"image {row} of {self.name} cannot be read ({error}).") from error


@dataclass(frozen=True)
class KeptImages:
    """The images of a stream, read once and kept as PNG bytes."""

    encoded: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded[row])).convert("RGB")


def open_timm(cfg: Data) -> Source:
    """Open a data set that timm finds by name.

    Raises:
        InputError: unknown name, missing package, files that are not there, or a stream larger than
            ``data.memory_budget_gb``.
    """
    train, names = _split(cfg, cfg.train_split)
    assert train is not None
    if cfg.test_split != "auto":
        test, _ = _split(cfg, cfg.test_split)
        return Source(names, train, test, None, _fingerprint(cfg, train, test))
    test, _ = _split(cfg, "test", optional=True)
    val, _ = _split(cfg, "validation", optional=True) if test is None else (None, names)
    return Source(names, train, test, val, _fingerprint(cfg, train, test or val))


def _split(cfg: Data, split: str, optional: bool = False) -> tuple[Split | None, list[str]]:
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    try:
        dataset = create_dataset(
            cfg.name, root=cfg.root, split=split, is_training=False, download=cfg.download, batch_size=1
        )
        if isinstance(dataset, IterableDataset):
            return _read_stream(cfg, dataset)
        return _index(cfg, dataset)
    except ImportError as error:
        raise _missing(cfg, error) from error
    except InputError:
        raise
    except Exception as error:  # each of timm's readers fails in its own way
        if "install" in str(error).lower():
            raise _missing(cfg, error) from error
        if optional:
            return None, []
        where = f" in data.root={cfg.root}" if cfg.root else ""
        raise InputError(
            f"--data {cfg.name}: timm cannot open split {split!r}{where} ({type(error).__name__}: {error}). Check the "
            "name, data.root and data.train_split; data.download=true fetches what timm can download."
        ) from error


def _missing(cfg: Data, error: Exception) -> InputError:
    extra = next((extra for package, extra in EXTRAS.items() if package in str(error)), None)
    fix = f"pip install 'kdtool[{extra}]'" if extra else f"install it ({error})"
    return InputError(f"--data {cfg.name} needs a package that is missing: {fix}.")


def _index(cfg: Data, dataset: Any) -> tuple[Split, list[str]]:
    labels = np.asarray(_labels(dataset), dtype=np.int64)
    split = Split(MapImages(dataset, cfg.name), labels, np.arange(len(labels), dtype=np.int64))
    return split, _names(dataset, labels)


def _labels(dataset: Any) -> Any:
    reader = getattr(dataset, "reader", None)
    if hasattr(dataset, "targets"):
        return dataset.targets
    if reader is not None and hasattr(reader, "samples"):
        return [target for _, target in reader.samples]
    if reader is not None and hasattr(reader, "label_key"):
        return reader.dataset[reader.label_key]
    return [dataset[row][1] for row in range(len(dataset))]


def _names(dataset: Any, labels: np.ndarray) -> list[str]:
    names = getattr(dataset, "classes", None)
    if names is None:
        reader = getattr(dataset, "reader", None)
        by_name = getattr(reader, "class_to_idx", None)
        names = sorted(by_name, key=by_name.__getitem__) if by_name else None
    count = int(labels.max(initial=-1)) + 1
    names = [str(name) for name in names] if names is not None else []
    return names if len(names) >= count else [str(number) for number in range(count)]


def _read_stream(cfg: Data, dataset: Any) -> tuple[Split, list[str]]:
    encoded, labels, size = [], [], 0
    for image, label in _items(dataset):
        data = io.BytesIO()
        image.convert("RGB").save(data, "PNG", compress_level=1)
        encoded.append(data.getvalue())
        labels.append(int(label))
        size += len(encoded[-1])
        if size > cfg.memory_budget_gb * 1e9:
            raise InputError(
                f"--data {cfg.name} is a stream of more than data.memory_budget_gb={cfg.memory_budget_gb} GB, and is "
                "read into memory: raise the budget, or use a data set that is read by number (a folder, hfds/…)."
            )
    kept = np.array(labels, dtype=np.int64)
    return Split(KeptImages(tuple(encoded)), kept, np.arange(len(kept))), _names(dataset, kept)


def _items(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "set_loader_cfg"):
        dataset.set_loader_cfg(num_workers=0)
    return iter(dataset)


def _fingerprint(cfg: Data, *splits: Split | None) -> str:
    """Digest name, place and labels; the files themselves are timm's to know."""
    digest = hashlib.sha256(f"{cfg.name}\0{cfg.root}".encode())
    for split in splits:
        if split is not None:
            digest.update(split.labels.tobytes())
    return digest.hexdigest()
