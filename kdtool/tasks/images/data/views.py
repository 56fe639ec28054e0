"""Views: a sample's crops, flips and colours, computed from (view_seed, view, row) and applied to whole batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdtool.engine import tree
from kdtool.errors import InputError
from kdtool.randomness import seeded_libraries, uniforms
from kdtool.tasks.images.data.changes import Changes
from kdtool.tasks.images.data.dataset import MEDIUM
from kdtool.tasks.images.data.decode import Enough, with_channels
from kdtool.tasks.images.data.mixing import Mixing
from kdtool.tasks.images.options import Data

ASPECT = math.log(4 / 3)
"""Largest log aspect ratio of a random resized crop (Szegedy et al., CVPR 2015)."""

ERASE_AREA, ERASE_ASPECT = (0.02, 1 / 3), math.log(3.3)
"""Range of area and largest log aspect ratio of an erased box (Zhong et al., "Random Erasing", AAAI 2020)."""


class Views:
    """How images become a network's inputs.

    ``host`` works on one decoded image, in workers, and gives uint8 pixels; ``device`` does the rest for a batch.

    Args:
        cfg: the recipe's section ``data``.
        image_size: pixels a side, S.
        mean, std: per channel, for values in [0, 1]; there are as many channels, C, as these.
        grey: the images have no colour.
        native_size: (height, width) of the source's images.
        train: random views; False: evaluation's only one.
        interpolation: how images are resized.
    """

    def __init__(
        self,
        cfg: Data,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        grey: bool,
        native_size: tuple[int, int],
        train: bool,
        interpolation: str = "bicubic",
    ):
        self.cfg, self.size, self.train, self.interpolation = cfg, image_size, train, interpolation
        self.mean, self.std = torch.tensor(list(mean)), torch.tensor(list(std))
        self._norms: dict[torch.device, list[Tensor]] = {}
        self.seed, self.draft = cfg.view_seed, cfg.draft and train
        by_size = "pad" if max(native_size) <= MEDIUM else "resized"
        self.crop = (by_size if cfg.crop == "auto" else cfg.crop) if train else "none"
        self.padding = (image_size // 8 if cfg.crop_padding is None else cfg.crop_padding) if self.crop == "pad" else 0
        self.flip = (cfg.flip if cfg.flip is not None else 0.0 if grey else 0.5) if train else 0.0
        self.mixing = Mixing(cfg.mixup, cfg.cutmix, cfg.view_seed) if train else Mixing(0.0, 0.0, 0)
        self.channels = len(self.mean)
        if train and cfg.auto_augment:
            if self.channels == 4:
                raise InputError(
                    "timm's policies of augmentation (data.auto_augment, data.strong) change grey and RGB images; "
                    "data.channels=4 goes without them."
                )
            self._augment  # noqa: B018 - a bad policy is refused before training

    # --- one image ------------------------------------------------------------------------------------------------

    @property
    def fixed(self) -> bool:
        """True where ``host`` gives a row the same pixels in every view, so that they can be kept."""
        return self.crop != "resized" and not (self.train and self.cfg.auto_augment)

    @property
    def pixels_key(self) -> tuple[Any, ...]:
        """What decides the pixels that ``host`` gives, where they are fixed."""
        drafted = ["draft"] if self.draft else []
        return self.size, self.channels, self.cfg.eval_crop, self.interpolation, *drafted

    @property
    def decides(self) -> dict[str, Any]:
        """What a network's inputs follow from, besides the images and the view, by the recipe's names.

        Of the normalisation only a mean that becomes pixels: of erased boxes, and of corners that policies fill. All
        else a network that normalises in its own way can undo.
        """
        cfg, pixels = self.cfg, bool(self.train and (self.cfg.erase > 0 or self.cfg.auto_augment))
        random = {
            "view_seed": self.seed,
            "crop_padding": self.padding,
            "crop_scale": list(cfg.crop_scale) if self.crop == "resized" else None,
            "color_jitter": cfg.color_jitter,
            "auto_augment": cfg.auto_augment,
            "erase": cfg.erase,
            "mixup": self.mixing.mixup,
            "cutmix": self.mixing.cutmix,
        }
        return {
            "image_size": self.size,
            "eval_crop": None if self.crop == "resized" else cfg.eval_crop,
            "crop": self.crop,
            "flip": self.flip,
            **(random if self.train else {}),
            "mean": self.mean.tolist() if pixels else None,
            **({"draft": True} if self.draft else {}),
            **({"interpolation": self.interpolation} if self.interpolation != "bicubic" else {}),
        }

    @cached_property
    def _evaluate(self) -> Any:
        from timm.data import create_transform

        # timm's own geometry: what its users get from the shipped config.json.
        return create_transform(
            input_size=(self.channels, self.size, self.size),
            is_training=False,
            interpolation=self.interpolation,
            crop_pct=self.cfg.eval_crop,
            crop_mode="center",
            use_prefetcher=True,
        )

    @cached_property
    def _augment(self) -> Any:
        from timm.data import auto_augment as theirs

        policy = str(self.cfg.auto_augment)
        kinds = {"rand": theirs.rand_augment_transform, "augmix": theirs.augment_and_mix_transform}
        make = next((kinds[k] for k in kinds if policy.startswith(k)), theirs.auto_augment_transform)
        fill = tuple(round(255 * m) for m in self.mean.tolist())
        try:
            return make(policy, {"translate_const": int(0.45 * self.size), "img_mean": fill})
        except (AssertionError, KeyError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"data.auto_augment={policy} is no policy of timm's; examples: rand-m9-mstd0.5, original, augmix-m3."
            ) from error

    def enough(self, row: int, view: int) -> Enough | None:
        """Return which size of a sample's image has all pixels that its view keeps; None: it is to be read whole."""
        if not self.draft:
            return None

        def needed(size: tuple[int, int]) -> tuple[int, int]:
            if self.crop != "resized":
                side = math.ceil(self.size / self.cfg.eval_crop)
                return side, side
            left, top, right, bottom = self._box(size, row, view)
            return math.ceil(size[0] * self.size / (right - left)), math.ceil(size[1] * self.size / (bottom - top))

        return needed

    def host(self, image: Image.Image, row: int, view: int) -> Tensor:
        """Return uint8 (C, S, S) pixels of one image."""
        image = with_channels(image, self.channels)
        augments = self.train and bool(self.cfg.auto_augment)
        if self.crop == "resized":
            box = self._box(image.size, row, view)
            image = image.resize((self.size, self.size), Image.Resampling[self.interpolation.upper()], box=box)
        else:
            pixels: Tensor = self._evaluate(image)
            if not augments:
                return pixels
            image = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
        if augments:
            with seeded_libraries("augment", self.seed, view, row):
                image = self._augment(image)
        pixels = torch.from_numpy(np.array(image)).view(self.size, self.size, self.channels)
        return pixels.permute(2, 0, 1).contiguous()

    def _box(self, size: tuple[int, int], row: int, view: int) -> tuple[float, float, float, float]:
        """Return the box (left, top, right, bottom) of a random resized crop."""
        number = torch.tensor([row])
        draw = [float(uniforms(number, f"crop {what}", self.seed, view)) for what in ("area", "aspect", "x", "y")]
        low, high = self.cfg.crop_scale
        area = (low + (high - low) * draw[0]) * size[0] * size[1]
        stretch = math.exp((2 * draw[1] - 1) * ASPECT / 2)
        width, height = (min(math.sqrt(area) * stretch, size[0]), min(math.sqrt(area) / stretch, size[1]))
        left, top = draw[2] * (size[0] - width), draw[3] * (size[1] - height)
        return left, top, left + width, top + height

    # --- a batch --------------------------------------------------------------------------------------------------

    def changes(self, rows_N: Tensor, view: int) -> Changes:
        """Return what happens to samples, on the CPU.

        They are for a whole epoch at once, so that a device gets them in one copy: none of its steps then waits.

        Args:
            rows_N: int64 rows of the samples, on the CPU.
            view: which view.
        """
        return Changes(self._moves(rows_N, view), self._colours(rows_N, view), self._boxes(rows_N, view))

    def _moves(self, rows_N: Tensor, view: int) -> Tensor:
        if not self.padding and not self.flip:
            return torch.zeros(len(rows_N), 0, dtype=torch.int64)
        room = 2 * self.padding + 1
        shifts = [(self._draw(rows_N, f"shift {axis}", view) * room).long() for axis in ("y", "x")]
        return torch.stack([*shifts, (self._draw(rows_N, "flip", view) < self.flip).long()], dim=1)

    def _colours(self, rows_N: Tensor, view: int) -> Tensor:
        if not self.train or self.cfg.color_jitter == 0:
            return torch.zeros(len(rows_N), 0)
        names = ("contrast", "brightness", "saturation")[: 2 if self.channels == 1 else 3]  # grey has no saturation
        drawn = [1 + self.cfg.color_jitter * (2 * self._draw(rows_N, name, view) - 1) for name in names]
        return torch.stack(drawn, dim=1).float()

    def _boxes(self, rows_N: Tensor, view: int) -> Tensor:
        if not self.train or self.cfg.erase == 0:
            return torch.zeros(len(rows_N), 0, dtype=torch.int64)
        low, high = ERASE_AREA
        side = torch.sqrt(low + (high - low) * self._draw(rows_N, "erase area", view)) * self.size
        # One by one: torch's exp may differ in the last bit between a lone number and one of a vector.
        logs = (self._draw(rows_N, "erase aspect", view) * 2 - 1) * (ERASE_ASPECT / 2)
        stretch = torch.tensor([math.exp(x) for x in logs.tolist()], dtype=torch.float64)
        bounds = []
        for axis, length in (("y", side * stretch), ("x", side / stretch)):
            length = length.clamp(max=self.size)
            start = self._draw(rows_N, f"erase {axis}", view) * (self.size - length)
            bounds += [start, start + length]
        # A pixel is inside where its middle is.
        chosen = self._draw(rows_N, "erase", view) < self.cfg.erase
        return (torch.stack(bounds, dim=1) - 0.5).ceil().long() * chosen[:, None]

    def device(self, pixels_BCSS: Tensor, rows_B: Tensor, view: int, changes: Changes | None = None) -> Tensor:
        """Return float32 (B, C, S, S) inputs: shifted, flipped, recoloured, normalised, erased.

        Args:
            pixels_BCSS: uint8, as ``host`` gives them.
            rows_B: int64 rows of the samples, on the CPU.
            view: which view.
            changes: the samples' own, on the pixels' device; None: they are computed here, and the host waits for
                their copy.
        """
        to, pixels = pixels_BCSS.device, pixels_BCSS
        if changes is None:
            changes = tree.to(self.changes(rows_B, view), to)
        if changes.moves.shape[1]:
            pixels = self._moved(pixels, changes.moves)
        # The very operations of ToTensor and Normalize, so that evaluation is torchvision's bit for bit. Divisors
        # are tensors on the device: by a plain number, CUDA multiplies with its reciprocal.
        images = pixels.float().div_(torch.full((), 255.0, device=to))
        if changes.colours.shape[1]:
            colours = self._recolour(images[:, :3], pixels[:, :3], changes.colours)
            images = torch.cat([colours, images[:, 3:]], 1) if self.channels == 4 else colours
        # Laid out as the images: a plain broadcast would run over C numbers at a time where channels come last.
        mean, std = (torch.empty_like(images[:1]).copy_(each) for each in self._norm(to))
        images = images.sub_(mean).div_(std)
        return self._erase(images, changes.boxes) if changes.boxes.shape[1] else images

    def _draw(self, rows_B: Tensor, purpose: str, view: int) -> Tensor:
        return uniforms(rows_B, purpose, self.seed, view)

    def _norm(self, device: torch.device) -> list[Tensor]:
        """Return mean and std as (C, 1, 1) on a device, copied there once."""
        if device not in self._norms:
            self._norms[device] = [each[:, None, None].to(device) for each in (self.mean, self.std)]
        return self._norms[device]

    def _moved(self, pixels: Tensor, moves_B3: Tensor) -> Tensor:
        pad, at = self.padding, torch.arange(self.size, device=pixels.device)
        shift_y, shift_x, flips = moves_B3.unbind(1)
        ys_BS, xs_BS = shift_y[:, None] + at, shift_x[:, None] + at
        xs_BS = torch.where(flips[:, None] > 0, xs_BS.flip(1), xs_BS)
        padded = F.pad(pixels, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        count, height, width, channels = padded.shape
        # One selection of whole pixels does both; it yields channels last.
        line_BS = torch.arange(count, device=pixels.device)[:, None] * height + ys_BS
        place = line_BS[:, :, None] * width + xs_BS[:, None, :]
        moved = padded.reshape(-1, channels).index_select(0, place.view(-1))
        return moved.view(count, self.size, self.size, channels).permute(0, 3, 1, 2)

    def _recolour(self, images: Tensor, pixels: Tensor, factors_B3: Tensor) -> Tensor:
        """Change contrast, brightness and saturation of images in [0, 1] whose uint8 values are ``pixels``.

        Both have the three colours, or one channel of grey, which has no saturation.
        """
        contrast, brightness, *saturation = (each.view(-1, 1, 1, 1) for each in factors_B3.unbind(1))
        mean = self._mean_grey(pixels).view(-1, 1, 1, 1)
        images = (mean + (images - mean) * contrast).clamp(0, 1)
        images = (images * brightness).clamp(0, 1)
        if not saturation:
            return images
        grey = (images[:, :1] * 0.299 + images[:, 1:2] * 0.587) + images[:, 2:] * 0.114
        return (grey + (images - grey) * saturation[0]).clamp(0, 1)

    def _mean_grey(self, pixels: Tensor) -> Tensor:
        """Return (B,) float32, each image's mean grey value in [0, 1].

        A mean of whole numbers: a sum of floats would depend on threads, batch size and device.
        """
        sums_BC = pixels.sum((2, 3), dtype=torch.int64)
        if pixels.device.type == "mps":
            sums_BC = sums_BC.cpu()  # it has no float64, in which alone these are divided as they are elsewhere
        parts = (299, 587, 114) if pixels.shape[1] == 3 else (1000,)
        sum_B = torch.stack([sums_BC[:, i] * part for i, part in enumerate(parts)]).sum(0)
        # A tensor again: see the divisor in ``device``.
        whole = torch.full((), 1000.0 * 255 * self.size**2, dtype=torch.float64, device=sums_BC.device)
        return (sum_B.double() / whole).float().to(pixels.device)

    def _erase(self, images: Tensor, bounds_B4: Tensor) -> Tensor:
        """Set a box to zero: the mean colour, after normalising."""
        at_S = torch.arange(self.size, device=images.device)
        inside = [
            (at_S >= begin[:, None]) & (at_S < end[:, None])
            for begin, end in zip(bounds_B4[:, ::2].unbind(1), bounds_B4[:, 1::2].unbind(1), strict=True)
        ]
        box = inside[0][:, :, None] & inside[1][:, None, :]
        return images.masked_fill(box[:, None], 0.0)
