"""What it costs to read photos: decoding and transforming, whole and at a fraction, beside timm and torchvision.

    python benchmarks/reading.py --count 16 --repeat 3
    python benchmarks/reading.py --data photos/

One process, one thread: so many workers read so many times as fast. Each repetition reads every photo once in each way,
the ways in turn, so that a noisy machine disturbs all alike; a figure is the median of repetitions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdtool.tasks.images.data.decode import decode
from kdtool.tasks.images.data.files import images_below
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data

NORM = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photos(folder: Path, count: int, size: tuple[int, int] = (4032, 3024)) -> list[str]:
    """Write photos of 12 megapixels: shapes of many sizes and the grain of a sensor, in JPEG at quality 90."""
    draw = np.random.Generator(np.random.Philox(0))
    for number in range(count):
        pixels = np.zeros((size[1], size[0], 3), np.float32)
        for cells in (4, 16, 64, 256):
            coarse = draw.uniform(0, 255, (cells * 3 // 4, cells, 3)).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) / 4
        pixels += draw.normal(0, 4, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return [str(path) for path in sorted(folder.iterdir())]


def ways(size: int) -> dict[str, Callable[[str, int], object]]:
    """Return what reads photo ``path``, the ``row``-th, by name; decoding alone where the name says so."""
    import timm.data
    from torchvision.io import ImageReadMode, decode_image

    theirs = timm.data.create_transform((3, size, size), is_training=True, scale=(0.25, 1.0), use_prefetcher=True)
    made = {
        name: Views(Data(draft=draft), size, *NORM, grey=False, native_size=(3024, 4032), train=True)
        for name, draft in (("whole", False), ("draft", True))
    }

    def ours(name: str) -> Callable[[str, int], object]:
        views = made[name]
        return lambda path, row: views.host(decode(path, views.enough(row, 0)), row, 0)

    def timms(path: str, row: int) -> object:
        with open(path, "rb") as file:  # as its ImageDataset does
            return theirs(Image.open(file).convert("RGB"))

    return {
        "kdtool, decode alone": lambda path, row: decode(path, made["whole"].enough(row, 0)),
        "kdtool": ours("whole"),
        "kdtool data.draft, decode alone": lambda path, row: decode(path, made["draft"].enough(row, 0)),
        "kdtool data.draft": ours("draft"),
        "timm": timms,
        "torchvision, decode alone": lambda path, row: decode_image(path, mode=ImageReadMode.RGB),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of photos; default: generated ones")
    parser.add_argument("--count", type=int, default=16, help="of photos")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = list(images_below(given.data))[: given.count] if given.data else photos(Path(folder), given.count)
        times: dict[str, list[float]] = {}
        for _ in range(given.repeat):
            for name, read in ways(given.size).items():
                began = time.process_time()
                for row, path in enumerate(paths):
                    read(path, row)
                times.setdefault(name, []).append((time.process_time() - began) / len(paths))
    found = {name: statistics.median(each) for name, each in times.items()}
    for name, seconds in found.items():
        print(f"{name:34} {1000 * seconds:8.1f} ms of processor time a photo  {found['timm'] / seconds:6.2f} x timm's")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
