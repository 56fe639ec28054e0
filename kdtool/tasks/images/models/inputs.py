"""What a network's weights expect of their images: normalisation, and how evaluation resizes and crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool.errors import InputError
from kdtool.tasks.common.targets import config_of
from kdtool.tasks.images.data.decode import MODES
from kdtool.tasks.images.options import INTERPOLATIONS

if TYPE_CHECKING:
    from kdtool.tasks.images.options import Data, Student, Teacher


@dataclass(frozen=True)
class Inputs:
    """What somebody says of a network's inputs; None: nothing.

    Attributes:
        said_by: for messages: "teacher.mean", "ImageNet's".
        mean, std: per channel, for values in [0, 1].
        interpolation: how evaluation resizes, of ``INTERPOLATIONS``.
        crop_pct: share of the resized image that evaluation's centre crop keeps, in (0, 1].
    """

    said_by: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

IMAGENET = Inputs(
    "ImageNet's, as neither the recipe's mean and std nor a pretrained_cfg beside the function says others",
    IMAGENET_MEAN,
    IMAGENET_STD,
)


def of_section(section: Teacher | Student, name: str) -> Inputs:
    """Return what a recipe's section ``teacher`` or ``student`` says."""
    return Inputs(f"{name}.mean and .std", _channels(section.mean), _channels(section.std), section.interpolation,
                  section.crop_pct)  # fmt: skip


def of_data(data: Data) -> Inputs:
    """Return what a recipe's section ``data`` says."""
    return Inputs("data.mean and data.std", _channels(data.mean), _channels(data.std))


def beside(weights: str) -> Inputs:
    """Return the normalisation in the ``config.json`` beside a weights file, such as kdtool writes."""
    folder = Path(weights).expanduser().parent
    cfg = config_of(folder).get("pretrained_cfg") or {}
    return of_cfg({key: cfg.get(key) for key in ("mean", "std")}, str(folder / "config.json"))


def of_cfg(cfg: Any, where: str) -> Inputs:
    """Return what a ``pretrained_cfg`` in timm's form says.

    Args:
        cfg: a mapping, or timm's ``PretrainedCfg``; None: nothing is said.
        where: what messages call it.

    Raises:
        InputError: it is none, or a value in it is not valid.
    """
    cfg = mapping_of(cfg, where)
    norm = {key: _channels(cfg.get(key), f"{where}: {key}", low) for key, low in (("mean", 0.0), ("std", 0.001))}
    interpolation, crop = cfg.get("interpolation"), cfg.get("crop_pct")
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise InputError(f"{where}: interpolation={interpolation!r} is none of {', '.join(INTERPOLATIONS)}.")
    if crop is not None and not (isinstance(crop, (int, float)) and 0.1 <= crop <= 1):
        raise InputError(f"{where}: crop_pct={crop!r} is not between 0.1 and 1.")
    return Inputs(where, norm["mean"], norm["std"], interpolation, float(crop) if crop is not None else None)


def mapping_of(cfg: Any, where: str) -> Mapping[str, Any]:
    """Return a ``pretrained_cfg`` in timm's form as a mapping, an empty one for None.

    Raises:
        InputError: it is none.
    """
    if cfg is not None and not isinstance(cfg, Mapping):
        cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else cfg
    if cfg is not None and not isinstance(cfg, Mapping):
        raise InputError(f"{where} is {cfg!r}; expected a dictionary with mean, std, interpolation or crop_pct.")
    return cfg or {}


def first_said(said: Sequence[Inputs]) -> Inputs:
    """Return of each value the first that is said; ``said_by`` names who says the mean, and the std if another does."""
    found = {
        each.name: next((value for one in said if (value := getattr(one, each.name)) is not None), None)
        for each in fields(Inputs)
        if each.name != "said_by"
    }
    by = [next((one.said_by for one in said if getattr(one, key) is not None), "") for key in ("mean", "std")]
    return Inputs(" and ".join(dict.fromkeys(by)), **found)


def for_channels(inputs: Inputs, channels: int) -> Inputs:
    """Return inputs whose mean and std, said of colours, are of so many channels.

    Grey, and how opaque a pixel is, get the average over the colours.
    """
    assert inputs.mean is not None
    assert inputs.std is not None
    if len(inputs.mean) == len(inputs.std) == channels:
        return inputs
    mean, std = (_spread(each, channels) for each in (inputs.mean, inputs.std))
    return replace(inputs, said_by=f"from {inputs.said_by}, for {channels_of(channels)}", mean=mean, std=std)


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    colours = values[:3]
    average = sum(colours) / len(colours)
    if channels == 1:
        return (average,)
    colours = colours if len(colours) == 3 else (average,) * 3
    return colours if channels == 3 else (*colours, average)


def channels_of(channels: int) -> str:
    """Return how many channels there are, for people."""
    return "1 channel" if channels == 1 else f"{channels} channels"


def normalisation(inputs: Inputs) -> str:
    """Return how inputs are normalised, and resized where that is said, for people."""
    mean, std = (", ".join(f"{value:.4g}" for value in each or ()) for each in (inputs.mean, inputs.std))
    resized = f"; resized by {inputs.interpolation}" if inputs.interpolation is not None else ""
    cropped = f"; of the resized image the middle {inputs.crop_pct:g} counts" if inputs.crop_pct is not None else ""
    return f"mean {mean}; std {std} ({inputs.said_by}){resized}{cropped}"


def _channels(values: Any, where: str = "", low: float = 0.0) -> tuple[float, ...] | None:
    if values is None:
        return None
    if where and not (
        isinstance(values, (list, tuple))
        and len(values) in MODES
        and all(isinstance(each, (int, float)) and low <= each <= 1 for each in values)
    ):
        raise InputError(f"{where} is {values!r}; expected numbers from {low:g} to 1, one a channel.")
    return tuple(float(each) for each in values)
