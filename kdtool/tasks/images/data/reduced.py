"""Images read with no more pixels than are needed of them, where their source can do that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from kdtool.tasks.images.data.dataset import Images
    from kdtool.tasks.images.data.decode import Enough


@runtime_checkable
class Reducible(Protocol):
    """Images that may be decoded at a fraction of their size."""

    def reduced(self, row: int, enough: Enough | None) -> Image:
        """Return image ``row`` with at least so many pixels as are ``enough``; None: all of them."""
        ...


def read(images: Images, row: int, enough: Enough | None) -> Image:
    """Return image ``row``, with no more than ``enough`` of its pixels where that saves work; None: all of them."""
    return images.reduced(row, enough) if enough is not None and isinstance(images, Reducible) else images[row]
