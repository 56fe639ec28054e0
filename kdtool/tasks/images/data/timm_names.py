"""Data sets by timm's names: ``torch/…``, ``hfds/…``, ``hfids/…``, ``wds/…``, ``tfds/…``."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import Images, Source, Split
from kdtool.tasks.images.data.decode import READER, UNREADABLE, decode, decode_bytes, in_colour, with_channels
from kdtool.tasks.images.data.timm_splits import VAL_NAMES, roles
from kdtool.tasks.images.options import Data

if TYPE_CHECKING:
    from PIL import Image

EXTRAS = {"datasets": "hfds", "webdataset": "wds"}
"""Which of kdtool's extras brings a package that a reader of timm's needs."""

HASHED_IMAGES = 64
"""How many images a split's fingerprint looks at, besides all labels."""


@dataclass(frozen=True)
class MapImages:
    """The images of a data set that is read by number."""

    reader: ClassVar[int] = READER

    dataset: Any
    name: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Image.Image:
        reader = getattr(self.dataset, "reader", None)
        try:
            if reader is None:
                return in_colour(self.dataset[row][0])
            # timm's own data set would put the next image in the place of one that cannot be read.
            with reader[row][0] as file:
                return decode(file)
        except UNREADABLE as error:
            raise InputError(f"image {row} of {self.name} cannot be read ({error}).") from error


@dataclass(frozen=True)
class KeptImages:
    """The images of a stream, read once and kept encoded; ``origins`` says where each was, for messages."""

    encoded: tuple[bytes, ...]
    origins: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> Image.Image:
        try:
            return decode_bytes(self.encoded[row])
        except UNREADABLE as error:
            where = self.origins[row] if self.origins else f"{row} of the stream"
            raise InputError(f"image {where} cannot be read ({error}).") from error


def open_timm(cfg: Data) -> Source:
    """Open a data set that timm finds by name.

    Raises:
        InputError: unknown name, missing package, files that are not there, or a stream larger than
            ``data.memory_budget_gb``.
    """
    try:
        found = roles(cfg)
    except Exception as error:
        raise refusal(cfg, cfg.train_split, error) from error
    kept = Budget(cfg)
    splits = {role: _open(cfg, name, kept) for role, name in found.items()}
    if set(splits) == {"train"} and cfg.name.startswith("tfds/") and cfg.test_split == "auto":
        splits |= _try(cfg, ("test", *VAL_NAMES), kept)
    names = max((names for _, names in splits.values()), key=len)
    train, test, val = (splits[role][0] if role in splits else None for role in ("train", "test", "val"))
    assert train is not None
    return Source(names, train, test, val, _fingerprint(cfg, [split for split, _ in splits.values()]))


def _try(cfg: Data, names: tuple[str, ...], kept: Budget) -> dict[str, tuple[Split, list[str]]]:
    """Open the first of these splits that is there; only its reader can tell."""
    for name in names:
        try:
            return {"test": _open(cfg, name, kept)}
        except InputError as error:
            if "split" not in str(error.__cause__).lower():
                raise
    return {}


class Budget:
    """Counts what streams have put into memory, against ``data.memory_budget_gb``."""

    def __init__(self, cfg: Data):
        self.cfg, self.left = cfg, cfg.memory_budget_gb * 1e9

    def take(self, size: int) -> None:
        """Count bytes.

        Raises:
            InputError: that was too much.
        """
        self.left -= size
        if self.left < 0:
            raise InputError(
                f"--data {self.cfg.name} is a stream of more than data.memory_budget_gb="
                f"{self.cfg.memory_budget_gb:g} GB, and is read into memory: raise the budget, use a data set that is "
                "read by number (a folder, hfds/…), or train on the stream itself with a budget of train.steps=N."
            )


def _open(cfg: Data, name: str, kept: Budget) -> tuple[Split, list[str]]:
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    try:
        dataset = create_dataset(
            cfg.name, root=cfg.root, split=name, is_training=False, download=cfg.download, batch_size=1
        )
        if isinstance(dataset, IterableDataset):
            images, labels = _read_stream(cfg, dataset, kept)
        else:
            images, labels = MapImages(dataset, cfg.name), _labels(dataset)
    except Exception as error:  # each of timm's readers fails in its own way
        raise refusal(cfg, name, error) from error
    return Split(images, labels, np.arange(len(labels), dtype=np.int64)), _names(dataset, labels)


def refusal(cfg: Data, split: str, error: Exception) -> InputError:
    """Return in kdtool's words what a library raised when it was asked for a split."""
    if isinstance(error, InputError):
        return error
    text = str(error)
    if isinstance(error, ImportError) or "install" in text.lower():
        extra = next((extra for package, extra in EXTRAS.items() if package in text), None)
        fix = f"pip install 'kdtool[{extra}]'" if extra else f"install it ({text})"
        return InputError(f"--data {cfg.name} needs a package that is missing: {fix}.")
    where = f" in data.root={cfg.root}" if cfg.root else ""
    return InputError(
        f"--data {cfg.name}: timm cannot open split {split!r}{where} ({type(error).__name__}: {text}). Check the name, "
        "data.root and data.train_split; data.download=true fetches what timm can download."
    )


def _labels(dataset: Any) -> np.ndarray:
    reader = getattr(dataset, "reader", None)
    if hasattr(dataset, "targets"):
        labels: Any = dataset.targets
    elif reader is not None and hasattr(reader, "samples"):
        labels = [target for _, target in reader.samples]
    elif reader is not None and hasattr(reader, "label_key"):
        labels = [-1 if label is None else label for label in reader.dataset[reader.label_key]]
    else:
        labels = [dataset[row][1] for row in range(len(dataset))]
    found = np.asarray(labels, dtype=np.int64)
    return found if found.ndim == 1 else found[:, 0]  # QMNIST: the class, then who wrote it


def _names(dataset: Any, labels: np.ndarray) -> list[str]:
    names = getattr(dataset, "classes", None)
    if names is None:
        reader = getattr(dataset, "reader", None)
        by_name = getattr(reader, "class_to_idx", None)
        names = sorted(by_name, key=by_name.__getitem__) if by_name else []
    count = int(labels.max(initial=-1)) + 1
    names = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    return names if len(names) >= count else [str(number) for number in range(count)]


def _read_stream(cfg: Data, dataset: Any, kept: Budget) -> tuple[Images, np.ndarray]:
    if hasattr(dataset, "set_loader_cfg"):
        dataset.set_loader_cfg(num_workers=0)
    encoded: list[bytes] = []
    labels: list[int] = []
    for image, label in dataset:
        data = io.BytesIO()
        in_colour(image).save(data, "PNG", compress_level=1)
        encoded.append(data.getvalue())
        labels.append(int(label))
        kept.take(len(encoded[-1]))
    declared = getattr(dataset.reader, "num_samples", 0) or 0
    if len(labels) < declared:
        # Readers of streams log what they cannot read, and leave it out.
        raise InputError(
            f"--data {cfg.name} holds {declared} images, of which {len(labels)} could be read; the rest are damaged or "
            "missing."
        )
    return KeptImages(tuple(encoded)), np.array(labels, dtype=np.int64)


def _fingerprint(cfg: Data, splits: list[Split]) -> str:
    """Digest name, place, labels and some images; the files themselves are timm's to know."""
    digest = hashlib.sha256(f"{cfg.name}\0{cfg.root}".encode())
    for split in splits:
        digest.update(split.labels.tobytes())
        for row in np.unique(np.linspace(0, len(split) - 1, HASHED_IMAGES).astype(np.int64)) if len(split) else ():
            try:
                digest.update(with_channels(split.images[int(row)], 3).tobytes())
            except InputError as error:
                digest.update(str(error).encode())
    return digest.hexdigest()
