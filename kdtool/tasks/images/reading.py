"""What reading images costs, part by part and whole, beside timm and torchvision on the same files in the same run."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.measure.bench.pairs import median_interval
from kdtool.tasks.images.data.dataset import Split
from kdtool.tasks.images.data.decode import MODES, UNREADABLE, decode
from kdtool.tasks.images.data.files import FileImages, images_below, known_endings
from kdtool.tasks.images.data.loader import Loader
from kdtool.tasks.images.data.open import default_image_size
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data, Recipe
from kdtool.tasks.task import Reading, Say

BLOCK_SECONDS, MOST = 0.1, 32
"""How long a block of files takes to decode, about, and how many it has at most."""

EPOCH_SECONDS, MOST_BATCHES = 0.3, 8
"""How long an epoch of the loaders takes in one process, about, and how many batches it has at most."""

LOOKED_AT = 64
"""Files whose size in pixels decides the image size."""


def reading(recipe: Recipe, rounds: int, say: Say) -> dict[str, Any] | None:
    """Measure what reading a folder of image files costs; None: ``data.name`` is no such folder.

    Parts run alone, in this process: a file's bytes, decoding, the transform that workers do, and what is left for the
    device (the copy, shifts, flips and normalisation). Then whole loaders run, each with the recipe's workers. In every
    round all of them have their turn on the same files.

    Args:
        recipe: its data's folder may have folders of classes or none.
        rounds: how often each has its turn.
        say: told what is being measured.

    Returns:
        "files" (count, used, bytes, pixels, unreadable by what cannot read how many), "image_size", "batch_size",
        "workers", "device", "parts" and "loaders": rows with "part", "by", "images_per_s", "mb_per_s" (of files, or of
        the pixels that are copied; None where neither is read), and "against": how many times as fast as the others,
        with an interval, by name.

    Raises:
        InputError: the folder holds no images, or too few that all can read.
    """
    folder = Path(recipe.data.name).expanduser()
    if not folder.is_dir() or any(folder.glob("*.parquet")):
        return None
    paths = list(images_below(folder, recipe.data.follow_links))
    if not paths:
        raise InputError(f"--data {recipe.data.name} holds no images ({known_endings()}).")
    say(f"looking at {len(paths):,} images")
    bench = _Bench(recipe, _spread(paths, LOOKED_AT))
    used, unreadable = bench.readable(_spread(paths, rounds * bench.block))
    if not used:
        raise InputError(f"--data {recipe.data.name}: none of {len(paths)} images can be read by all that is compared.")
    say(f"parts, {rounds} rounds of {bench.block} images")
    parts = bench.parts(used, rounds)
    say(f"loaders, {rounds} rounds of {bench.epoch} images")
    return {
        "files": {
            "folder": str(folder),
            "count": len(paths),
            "used": len(used),
            "bytes": statistics.mean(Path(path).stat().st_size for path in used),
            "pixels": list(bench.pixels),
            "unreadable": unreadable,
        },
        "image_size": bench.size,
        "batch_size": bench.batch,
        "workers": recipe.data.workers,
        "device": str(bench.device),
        "draft": recipe.data.draft,
        "parts": parts,
        "loaders": bench.loaders(used, rounds),
    }


def _spread(paths: Sequence[str], count: int) -> list[str]:
    """Return at most so many paths, spread over all: the first of a folder are all of one class."""
    return [paths[at] for at in np.unique(np.linspace(0, len(paths) - 1, count).astype(np.int64)).tolist()]


@dataclass
class _Times:
    """Seconds of each way by round.

    Attributes:
        images: by way, how many it read in each round.
        size: by way, the bytes that went through in each round.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=dict)
    images: dict[str, list[int]] = field(default_factory=dict)
    size: dict[str, list[int]] = field(default_factory=dict)

    def take(self, way: str, run: Callable[[], Any], images: int | None = None, size: int = 0) -> Any:
        """Time one turn of a way, and return what it made; ``images`` None: it returns their number."""
        began = time.perf_counter()
        made = run()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds.setdefault(way, []).append(time.perf_counter() - began)
        self.images.setdefault(way, []).append(made if images is None else images)
        self.size.setdefault(way, []).append(size)
        return made

    def each(self, way: str) -> list[float]:
        """Return the seconds of an image by round."""
        return [took / count for took, count in zip(self.seconds[way], self.images[way], strict=True)]

    def row(self, part: str, by: str, against: Sequence[str] = ()) -> dict[str, Any]:
        """Return the figures of a way beside those of others of the same part."""
        way, took = f"{part} {by}", self.each(f"{part} {by}")
        rates = [size / seconds / 1e6 for size, seconds in zip(self.size[way], self.seconds[way], strict=True)]
        beside = {}
        for other in against:
            times, low, high = median_interval([b / a for a, b in zip(took, self.each(f"{part} {other}"), strict=True)])
            beside[other] = {"times": round(times, 3), "interval": [round(low, 3), round(high, 3)]}
        return {
            "part": part,
            "by": by,
            "images_per_s": 1 / statistics.median(took),
            "mb_per_s": statistics.median(rates) if any(rates) else None,
            "against": beside,
        }


class _Bench:
    """What is measured, made once.

    Args:
        recipe: how images become inputs, in what batches, by how many workers and where.
        some: files that decide the image size, and how long blocks are.
    """

    def __init__(self, recipe: Recipe, some: Sequence[str]):
        self.cfg: Data = recipe.data
        self.device = pick_device(recipe.train.device)
        self.workers, self.draft = recipe.data.workers, recipe.data.draft
        self.pixels = _usual_size(some)
        self.size = recipe.data.image_size or default_image_size(self.pixels)
        half = (0.5,) * recipe.data.channels
        self.norm = half, half
        self.views = Views(self.cfg, self.size, *self.norm, grey=False, native_size=self.pixels, train=True)
        self.theirs = self._timms_transform()
        each = self._seconds(some[:4])
        self.block = int(np.clip(BLOCK_SECONDS / each, 1, MOST))
        self.batch = recipe.train.batch_size
        self.epoch = self.batch * int(np.clip(EPOCH_SECONDS / each / self.batch, 1, MOST_BATCHES))

    def readable(self, paths: Sequence[str]) -> tuple[list[str], dict[str, int]]:
        """Return the files that all can read, and by name how many each cannot."""
        ways = {"kdtool": self.ours, "timm": self.by_pil, "torchvision": self.by_torchvision}
        used, unreadable = [], dict.fromkeys(ways, 0)
        for row, path in enumerate(paths):
            wrong = [name for name, way in ways.items() if not _reads(way, path, row)]
            for name in wrong:
                unreadable[name] += 1
            if not wrong:
                used.append(path)
        return used, unreadable

    def ours(self, path: str, row: int) -> Image.Image:
        """Decode as kdtool does."""
        return decode(path, self.views.enough(row, 0))

    def by_pil(self, path: str, row: int) -> Image.Image:
        """Decode as timm's data set does."""
        with open(path, "rb") as file:
            return Image.open(file).convert(MODES[self.cfg.channels])

    def by_torchvision(self, path: str, row: int) -> Tensor:
        """Decode with torchvision.io."""
        from torchvision.io import ImageReadMode, decode_image

        modes = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB, 4: ImageReadMode.RGB_ALPHA}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 0.29 on it says that others take over
            found: Tensor = decode_image(path, mode=modes[self.cfg.channels])
        return found

    def parts(self, paths: Sequence[str], rounds: int) -> list[dict[str, Any]]:
        """Measure each part alone, in turn on the same block of files."""
        times = _Times(self.device)
        for number in range(rounds + 1):
            if number == 1:
                times = _Times(self.device)  # the first round warms up
            rows = [(number * self.block + i) % len(paths) for i in range(self.block)]
            self._round(times, [paths[row] for row in rows], rows)
        return [
            times.row("file", "kdtool"),
            times.row("decode", "kdtool", ("timm", "torchvision")),
            times.row("decode", "timm"),
            times.row("decode", "torchvision"),
            times.row("transform", "kdtool", ("timm",)),
            times.row("transform", "timm"),
            times.row("transfer", "kdtool"),
        ]

    def _round(self, times: _Times, paths: Sequence[str], rows: Sequence[int]) -> None:
        count, size = len(paths), sum(Path(path).stat().st_size for path in paths)
        block = list(zip(paths, rows, strict=True))
        times.take("file kdtool", lambda: [Path(path).read_bytes() for path in paths], count, size)
        images = times.take("decode kdtool", lambda: [self.ours(*each) for each in block], count, size)
        plain = times.take("decode timm", lambda: [self.by_pil(*each) for each in block], count, size)
        times.take("decode torchvision", lambda: [self.by_torchvision(*each) for each in block], count, size)
        ready = times.take(
            "transform kdtool",
            lambda: [self.views.host(image, row, 0) for image, row in zip(images, rows, strict=True)],
            count,
        )
        times.take("transform timm", lambda: [self.theirs(image) for image in plain], count)
        pixels = torch.stack(ready)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        index = torch.tensor(rows)
        times.take(
            "transfer kdtool",
            lambda: self.views.device(pixels.to(self.device, non_blocking=True), index, 0),
            count,
            pixels.nbytes,
        )

    def loaders(self, paths: Sequence[str], rounds: int) -> list[dict[str, Any]]:
        """Measure kdtool's loader and timm's, an epoch each in turn on the same files."""
        chosen = tuple(paths[i % len(paths)] for i in range(self.epoch))
        size = sum(Path(path).stat().st_size for path in chosen)
        ways: Mapping[str, Any] = {"kdtool": self._our_loader(chosen), "timm": self._timms_loader(chosen)}
        for epochs in ways.values():
            epochs(0)  # starts its workers
        times = _Times(self.device)
        for number in range(1, rounds + 1):
            for name, epochs in ways.items():
                times.take(f"loader {name}", lambda: epochs(number), None, size)  # noqa: B023 - called at once
        return [times.row("loader", "kdtool", ("timm",)), times.row("loader", "timm")]

    def _our_loader(self, paths: tuple[str, ...]) -> Callable[[int], int]:
        split = Split(FileImages(paths), np.zeros(len(paths), dtype=np.int64), np.arange(len(paths)))
        how = Reading(self.batch, 0, self.device, train=True)
        # Nothing is kept: an image is read each time that it is asked for.
        loader = Loader(split, self.views, how, num_classes=1, workers=self.workers, memory_budget_gb=0.0)
        return lambda epoch: sum(len(batch.labels) for batch in loader.epoch(epoch))

    def _timms_loader(self, paths: tuple[str, ...]) -> Callable[[int], int]:
        from timm.data import ImageDataset, create_loader

        loader = create_loader(
            ImageDataset("", reader=_Paths(paths), input_img_mode=MODES[self.cfg.channels]),
            (self.cfg.channels, self.size, self.size),
            self.batch,
            is_training=True,
            mean=self.norm[0],
            std=self.norm[1],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
            device=self.device,
            **self._augmentation,
        )
        return lambda epoch: sum(len(labels) for _, labels in loader)

    @property
    def _augmentation(self) -> dict[str, Any]:
        """The same as kdtool's, by timm's names."""
        return {
            "scale": tuple(self.cfg.crop_scale),
            "color_jitter": self.cfg.color_jitter or None,
            "auto_augment": self.cfg.auto_augment,
            "interpolation": "bicubic",
        }

    def _timms_transform(self) -> Callable[[Image.Image], Any]:
        from timm.data import create_transform

        shape = self.cfg.channels, self.size, self.size
        made: Callable[[Image.Image], Any] = create_transform(
            shape, is_training=True, use_prefetcher=True, **self._augmentation
        )
        return made

    def _seconds(self, paths: Sequence[str]) -> float:
        """Return how long an image takes here, about."""
        took = []
        for row, path in enumerate(paths):
            began = time.perf_counter()
            if _reads(lambda path, row: self.theirs(self.by_pil(path, row)), path, row):
                took.append(time.perf_counter() - began)
        return max(statistics.median(took) if took else BLOCK_SECONDS, 1e-5)


class _Paths:
    """Files as timm's readers give them, all of one class."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return open(self.paths[index], "rb"), 0

    def __len__(self) -> int:
        return len(self.paths)


def _reads(way: Callable[[str, int], Any], path: str, row: int) -> bool:
    try:
        way(path, row)
    except UNREADABLE:
        return False
    return True


def _usual_size(paths: Sequence[str]) -> tuple[int, int]:
    """Return the median height and width, from the files' heads."""
    sizes = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except UNREADABLE:
            continue
    if not sizes:
        return 1, 1
    width, height = np.median(np.array(sizes), 0).astype(int).tolist()
    return height, width
