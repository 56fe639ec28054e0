"""A local folder of parquet files as Hugging Face ``datasets`` writes them: ``[data/]SPLIT-00000-of-00001.parquet``."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.common.files.labels import none_known
from kdtool.tasks.images.data.dataset import Source, Split
from kdtool.tasks.images.data.decode import READER, UNREADABLE, decode
from kdtool.tasks.images.options import Data

if TYPE_CHECKING:
    from PIL import Image

HASHED_BYTES = 1 << 30
"""Files up to this size together are hashed whole; larger ones by name, size and time."""

KEPT_GB = 4.0
"""Files up to this size together are read into memory even where ``data.memory_budget_gb`` is less."""


@dataclass(frozen=True)
class EncodedImages:
    """Images held as encoded bytes: an Arrow array of binary values."""

    reader: ClassVar[int] = READER

    encoded: Any
    origin: str

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> Image.Image:
        data = self.encoded[row].as_py()
        if data is None:
            raise InputError(f"image {row} of {self.origin} cannot be read: it is empty, or a path without its bytes.")
        try:
            return decode(io.BytesIO(data))
        except UNREADABLE as error:
            raise InputError(f"image {row} of {self.origin} cannot be read ({error}).") from error


def open_source(folder: Path, cfg: Data) -> Source:
    """Open a folder of parquet files.

    Raises:
        InputError: pyarrow is missing, there is no training split, or no image and label columns.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--data {folder} holds parquet files; reading them needs: pip install 'kdtool[parquet]'"
        ) from error
    splits = _splits(folder)
    if cfg.train_split not in splits:
        raise InputError(
            f"--data {folder}: no parquet files of split {cfg.train_split!r}. {did_you_mean(cfg.train_split, splits)}"
        )
    wanted = {"train": cfg.train_split}
    if cfg.test_split != "auto":
        if cfg.test_split not in splits:
            raise InputError(f"data.test_split={cfg.test_split}: no such split. {did_you_mean(cfg.test_split, splits)}")
        wanted["test"] = cfg.test_split
    elif "test" in splits:
        wanted["test"] = "test"
    val = next((name for name in ("validation", "val", "valid") if name in splits and name != wanted.get("test")), None)
    if val is not None:
        wanted["val"] = val
    files = [file for name in wanted.values() for file in splits[name]]
    outside = [file for file in files if not file.resolve().is_relative_to(folder.resolve())]
    if outside and not cfg.follow_links:
        raise InputError(
            f"--data: {outside[0]} is a link that leads out of the data's folder; data.follow_links=true allows it."
        )
    _refuse_large(folder, files, max(KEPT_GB, cfg.memory_budget_gb))
    names: list[str] | None = None
    read: dict[str, Split] = {}
    for role, name in wanted.items():
        names, read[role] = _read(splits[name], names, f"{folder} ({name})", cfg.labels)
    assert names is not None
    return Source(names, read["train"], read.get("test"), read.get("val"), _fingerprint(files))


def _refuse_large(folder: Path, files: list[Path], budget_gb: float) -> None:
    """Encoded images are read whole: rows of a parquet file cannot be had one by one in a random order."""
    size_gb = sum(file.stat().st_size for file in files) / 1e9
    if size_gb > budget_gb:
        raise InputError(
            f"--data {folder}: {size_gb:.1f} GB of parquet files are more than data.memory_budget_gb={budget_gb:g}, "
            f"and are read into memory. Raise the budget, or let `datasets` read them from disk: --data hfds/{folder}"
        )


def _splits(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        name = file.stem.split("-")[0]
        if name not in ("train", "test", "val", "valid", "validation") and file.parent != folder:
            name = file.parent.name if file.parent.name != "data" else name
        found.setdefault(name, []).append(file)
    return found


def _read(files: list[Path], names: list[str] | None, origin: str, labelled: bool) -> tuple[list[str], Split]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
        image, label = _columns(schema, origin)
        _refuse_lists(schema.field(label), files[0])
        table = pa.concat_tables([pq.read_table(file, columns=[image, label]) for file in files])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--data: {files[0]} cannot be read as parquet ({error}).") from error
    column = table.column(image)
    if pa.types.is_struct(column.type):
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
    # 64-bit offsets: one array may exceed 2 GiB.
    encoded = column.cast(pa.large_binary()).combine_chunks()
    names, labels = _labels(table.column(label), schema, label, names, origin)
    if labelled and not names:
        raise none_known(origin, label, len(labels), "images")
    return names, Split(EncodedImages(encoded, origin), labels, np.arange(len(labels), dtype=np.int64))


def _refuse_lists(field: Any, file: Path) -> None:
    """Refuse labels that are several to an image, or made of parts."""
    import pyarrow as pa

    if pa.types.is_nested(field.type):
        raise InputError(
            f"--data: the labels in {file} (column {field.name!r}) are of type {field.type}; an image has one class, a "
            "number or a name. Write such a column, one value a row; or a table that names image files, in which "
            "data.targets=multi reads several classes of an image."
        )


def _features(schema: Any) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(b"huggingface")
    features: dict[str, Any] = json.loads(raw)["info"]["features"] if raw else {}
    return features


def _columns(schema: Any, origin: str) -> tuple[str, str]:
    kinds = {name: feature.get("_type") for name, feature in _features(schema).items() if isinstance(feature, dict)}
    images = [name for name, kind in kinds.items() if kind == "Image"] or ["image", "img"]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"] or ["label", "labels", "fine_label"]
    labels = sorted(classes, key="label".__ne__)  # of several, "label" first
    image = next((name for name in images if name in schema.names), None)
    label = next((name for name in labels if name in schema.names), None)
    if image is None or label is None:
        raise InputError(f"--data: {origin} needs a column of images and one of labels; it has {schema.names}.")
    return image, label


def _labels(column: Any, schema: Any, name: str, names: list[str] | None, origin: str) -> tuple[list[str], np.ndarray]:
    """Return class names, those given or found, and the (N,) labels in their numbers; -1 where there is none."""
    feature = _features(schema).get(name, {})
    declared = feature.get("names") if isinstance(feature, dict) else None
    values = column.to_pylist()
    if declared:
        labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
        if len(labels) and (labels.min() < -1 or labels.max() >= len(declared)):
            raise InputError(f"--data: {origin} has labels outside 0..{len(declared) - 1}.")
        return [str(n) for n in declared], labels
    if names is None:
        # Numbers in the order of numbers; -1 is how data sets write that there is no label.
        names = [str(value) for value in sorted({value for value in values if value not in (None, -1)})]
    number = {text: i for i, text in enumerate(names)}
    texts = ["" if value in (None, -1) else str(value) for value in values]
    strangers = sorted(set(texts) - set(number) - {""})
    if strangers:
        raise InputError(f"--data: {origin} has a class that the training split lacks: {strangers[0]!r}.")
    return names, np.array([number.get(text, -1) for text in texts], dtype=np.int64)


def _fingerprint(files: list[Path]) -> str:
    digest, whole = hashlib.sha256(), sum(file.stat().st_size for file in files) <= HASHED_BYTES
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}\0{stat.st_size}\0{'' if whole else stat.st_mtime_ns}\n".encode())
        if whole:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
