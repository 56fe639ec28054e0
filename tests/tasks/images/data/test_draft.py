"""``data.draft``: training JPEGs at a fraction of their size, with all pixels that a crop keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtool.tasks.images.data.dataset import Joined
from kdtool.tasks.images.data.decode import ORIENTATION, decode
from kdtool.tasks.images.data.files import FileImages
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data
from tests.running import CHEAP, PAIR, call, write_images

SIZE = (1600, 1200)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A smooth picture, whose pixels hardly depend on how it is made smaller."""
    path = tmp_path_factory.mktemp("draft") / "photo.jpg"
    x, y = np.meshgrid(np.linspace(0, 6, SIZE[0]), np.linspace(0, 4, SIZE[1]))
    waves = [127 + 100 * np.sin(x + y), 127 + 100 * np.cos(x * 0.7), 127 + 100 * np.sin(y * 1.3)]
    Image.fromarray(np.stack(waves, 2).astype(np.uint8)).save(path, quality=95)
    return str(path)


def views(train: bool = True, draft: bool = True, **more: object) -> Views:
    cfg = Data(draft=draft, **more)  # type: ignore[arg-type]
    return Views(cfg, 96, (0.5,) * 3, (0.5,) * 3, grey=False, native_size=(1200, 1600), train=train)


def test_jpegs_are_read_at_the_fraction_that_has_enough(photo: str) -> None:
    for least, expected in ((1300, (1600, 1200)), (600, (800, 600)), (301, (800, 600)), (150, (200, 150))):
        assert decode(photo, lambda _, side=least: (side, side)).size == expected  # type: ignore[misc]


def test_a_photo_that_lies_is_measured_as_it_is_seen(photo: str, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    with Image.open(photo) as image:
        image.save(tmp_path / "lying.jpg", exif=tags)
    seen = []

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        seen.append(size)
        return 150, 1600  # all of its height is wanted

    assert decode(str(tmp_path / "lying.jpg"), enough).size == (1200, 1600)
    assert seen == [(1200, 1600)]


def test_a_crop_has_its_pixels_and_the_same_picture(photo: str) -> None:
    images, small, whole = FileImages((photo,)), views(), views(draft=False)
    sizes = set()
    for view in range(12):
        enough = small.enough(0, view)
        assert enough is not None
        image = images.reduced(0, enough)
        left, top, right, bottom = small._box(image.size, 0, view)
        assert right - left >= 96 - 1  # a pixel: sizes are rounded
        assert bottom - top >= 96 - 1
        sizes.add(image.size)
        near, exact = small.host(image, 0, view).float(), whole.host(images[0], 0, view).float()
        assert (near - exact).abs().mean() < 1.5
    assert (200, 150) in sizes or (400, 300) in sizes
    assert SIZE not in sizes


def test_a_picture_that_is_resized_whole_has_its_pixels(photo: str) -> None:
    enough = views(crop="none", eval_crop=0.5).enough(0, 0)
    assert enough is not None
    assert decode(photo, enough).size == (400, 300)  # 192 pixels of its short side are kept: a quarter has them


def test_evaluation_and_recipes_without_it_read_all(photo: str) -> None:
    assert views(draft=False).enough(0, 0) is None
    assert views(train=False).enough(0, 0) is None
    assert views(train=False).pixels_key == views(train=False, draft=False).pixels_key


def test_it_is_part_of_what_a_cache_is_known_by() -> None:
    assert views().decides == {**views(draft=False).decides, "draft": True}
    assert views().pixels_key != views(draft=False).pixels_key


def test_sources_that_are_joined_pass_it_on(photo: str) -> None:
    class Held:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, row: int) -> Image.Image:
            return Image.new("RGB", SIZE)

    both = Joined(FileImages((photo,)), Held())
    assert both.reduced(0, lambda _: (150, 150)).size == (200, 150)
    assert both.reduced(1, lambda _: (150, 150)).size == SIZE
    assert both[0].size == SIZE


@pytest.mark.slow
def test_a_run_reads_so(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", {"a": 12, "b": 12}, size=(400, 300))
    alone = ["--method", "none", *PAIR, *CHEAP, "--data", photos, "--epochs", "1", "--batch-size", "8"]

    def trained(name: str, *more: str) -> bytes:
        done = call("run", *alone, "data.crop=resized", *more, "--out", tmp_path / name, folder=tmp_path / name)
        assert done.code == 0, done.err
        return done.file()

    small = trained("small", "data.draft=true")
    assert small != trained("whole")
    assert small == trained("workers", "data.draft=true", "data.workers=1")
