"""What turns a picture into a network's input. It travels inside every export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.images.models.built import Built


@dataclass(frozen=True)
class Preprocessing:
    """From pixels of any size, grey, RGB or RGBA, to (channels, size, size) numbers, in this order.

    Attributes:
        size: pixels a side of the input.
        crop_pct: the shorter side is first resized to floor(size / crop_pct), then the middle is cropped.
        crop_mode: where the crop lies; timm's name.
        interpolation: how PIL resizes: bicubic, bilinear, nearest or lanczos.
        scale: pixels, 0 to 255, are divided by it.
        mean, std: then (pixel - mean) / std, per channel.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    scale: float = 255.0

    @property
    def channels(self) -> int:
        """How many channels the input has: 1 for grey, 3 for RGB, 4 for RGBA."""
        return len(self.mean)

    @classmethod
    def of(cls, built: Built, cfg: Mapping[str, Any]) -> Preprocessing:
        """Return a built network's; ``cfg`` is timm's pretrained configuration."""
        return cls(
            size=built.image_size,
            mean=tuple(cfg.get("mean") or built.mean),
            std=tuple(cfg.get("std") or built.std),
            crop_pct=float(cfg.get("crop_pct") or 1.0),
            crop_mode=str(cfg.get("crop_mode") or "center"),
            interpolation=str(cfg.get("interpolation") or "bicubic"),
        )


@dataclass(frozen=True)
class Metadata:
    """What an exported file says of itself.

    Attributes:
        preprocessing: of its input.
        class_names: K names in the order of the logits.
        name: the run or model that it was made of.
        params, macs: of the network that it was made of; None: unknown.
        targets: "single": an image has one class; "multi": several.
    """

    preprocessing: Preprocessing
    class_names: list[str]
    name: str
    params: int | None = None
    macs: int | None = None
    targets: str = "single"

    def texts(self) -> dict[str, str]:
        """Return it as texts by key, as ONNX and torch.export keep them."""
        return {
            "preprocessing": json.dumps(dataclasses.asdict(self.preprocessing)),
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "name": self.name,
            "network": json.dumps({"params": self.params, "macs": self.macs}),
            **({} if self.targets == "single" else {"targets": self.targets}),
        }

    @classmethod
    def read(cls, texts: Mapping[str, str], where: str) -> Metadata:
        """Return what ``texts`` of the file ``where`` says.

        Raises:
            InputError: it is not an export of kdtool's.
        """
        try:
            kept: dict[str, Any] = json.loads(texts["preprocessing"])
            names: Sequence[Any] = json.loads(texts["class_names"])
            kept |= {"mean": tuple(map(float, kept["mean"])), "std": tuple(map(float, kept["std"]))}
            cost = json.loads(texts.get("network", "{}"))
            preprocessing = Preprocessing(**{**kept, "size": int(kept["size"])})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} does not say how its input is made (no readable 'preprocessing' and 'class_names' inside): "
                "give a file that kdtool export wrote."
            ) from error
        return cls(
            preprocessing,
            [str(name) for name in names],
            texts.get("name", where),
            **cost,
            targets=texts.get("targets", "single"),
        )
