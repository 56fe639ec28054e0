"""The recipe's keys that images bring. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from kdtool.recipe import schema
from kdtool.recipe.options import OUTPUTS, STUDENT, option
from kdtool.recipe.schema import EVERYTHING

MODEL = "timm name or family, hf-hub:, local-dir:, or path/to/file.py:function"


STREAMED = ("wds/", "hfids/")
"""What the names of data sets begin with that can be streamed."""

INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
"""How images can be resized, by timm's names."""


@dataclass
class _Inputs:
    """What a network's weights expect of their images."""

    mean: Optional[list[float]] = option(
        None,
        "channel means that its inputs are normalised with; default: those that come with its weights or its file",
        min=0.0,
        max=1.0,
        decides=EVERYTHING,
        late=True,
    )
    std: Optional[list[float]] = option(
        None,
        "channel deviations that its inputs are normalised with; default: as for mean",
        min=0.001,
        max=1.0,
        decides=EVERYTHING,
        late=True,
    )
    interpolation: Optional[str] = option(
        None,
        "how images are resized for it; default: bicubic",
        choices=INTERPOLATIONS,
        decides=EVERYTHING,
        late=True,
    )
    crop_pct: Optional[float] = option(
        None,
        "share of the resized image that its evaluation's centre crop keeps; default: data.eval_crop",
        min=0.1,
        max=1.0,
        decides=EVERYTHING,
        late=True,
    )


@dataclass
class Teacher(_Inputs, schema.Teacher):
    model: str = option("resnet50", MODEL)
    image_size: Optional[int] = option(
        None, "its input size in pixels; default: the data's, or what it was trained at", min=1
    )


@dataclass
class Student(_Inputs, schema.Student):
    model: str = option("mobilenetv3", MODEL)


@dataclass
class Data(schema.Data):
    name: str = option(
        "digits",
        "digits, a folder of images or parquet files, or a name of timm.data.create_dataset; with train.steps wds/... "
        "or hfids/...",
    )
    root: Optional[str] = option(None, "folder where timm's data sets (torch/..., hfds/..., wds/...) live")
    download: bool = option(False, "let timm download the data set", decides=())
    unlabelled: Optional[str] = option(None, "folder of extra images that join distillation without a hard label")
    labels: bool = option(
        True,
        "learn from labels; false: they only measure, where there are any, networks have no classifier and give "
        "embeddings, and a folder needs no classes",
        decides=EVERYTHING,
        late=True,
    )
    targets: str = option(
        "single",
        "single: an image has one class; multi: several, or none, in a table: each class is learnt on its own",
        choices=("single", "multi"),
        decides=EVERYTHING,
        late=True,
    )
    view_seed: int = option(0, "decides each sample's crops, flips and mixing partners", min=0, decides=EVERYTHING)
    max_bad: float = option(
        0.01,
        "share of a split's images that may be unreadable; each is replaced by the next of its class and listed in "
        "bad-images.jsonl",
        min=0.0,
        max=1.0,
        decides=(),
    )
    look: float = option(
        20.0,
        "seconds that a run first looks at its images for: which cannot be read, and which are there twice; 0: it does "
        "not",
        min=0.0,
        decides=(),
        late=True,
    )
    workers: int = option(0, "processes that decode images (in-memory data needs none)", min=0, max=256, decides=())
    memory_budget_gb: float = option(
        4.0, "small data sets up to this size are decoded once and kept in memory", min=0.0, decides=()
    )
    image_size: Optional[int] = option(
        None,
        "pixels a side; default: 32 for images up to 32 pixels, native up to 64, else 224",
        min=1,
        decides=(OUTPUTS, STUDENT),
    )
    channels: int = option(
        3,
        "what networks are given of an image: 1 grey, 3 red, green and blue, 4 these and how opaque it is; timm's and "
        "your own are made with in_chans",
        choices=(1, 3, 4),
        decides=EVERYTHING,
        late=True,
    )
    draft: bool = option(
        False,
        "decode training JPEGs in files at a half, a quarter or an eighth where that has all pixels that a crop keeps: "
        "faster, and not the same pixels; evaluation reads them whole",
        decides=EVERYTHING,
        late=True,
    )
    crop: str = option("auto", "pad: shift a padded image; resized: random resized crop; none; auto: by size",
                       choices=("auto", "pad", "resized", "none"), decides=EVERYTHING)  # fmt: skip
    crop_padding: Optional[int] = option(
        None, "pixels of padding for crop=pad; default: an eighth of the size", min=0, decides=EVERYTHING
    )
    crop_scale: list[float] = option(
        [0.25, 1.0], "range of area of crop=resized", min=0.01, max=1.0, decides=EVERYTHING
    )
    flip: Optional[float] = option(
        None,
        "probability of a horizontal flip; default: 0.5 for colour, 0 for grey",
        min=0.0,
        max=1.0,
        decides=EVERYTHING,
    )
    color_jitter: float = option(
        0.0, "strength of brightness, contrast and saturation changes", min=0.0, max=1.0, decides=EVERYTHING
    )
    auto_augment: Optional[str] = option(
        None, "timm's augmentation policy, such as rand-m9-mstd0.5", decides=EVERYTHING
    )
    strong: str = option(
        "rand-m10-n2", "timm's policy of a sample's strong view, for methods that see one beside the usual; a box of "
        "it is erased besides", decides=(OUTPUTS, STUDENT), late=True,
    )  # fmt: skip
    erase: float = option(0.0, "probability of erasing a random box", min=0.0, max=1.0, decides=EVERYTHING)
    mixup: float = option(0.0, "alpha of mixup's Beta distribution; 0: off", min=0.0, decides=EVERYTHING)
    cutmix: float = option(0.0, "alpha of cutmix's Beta distribution; 0: off", min=0.0, decides=EVERYTHING)
    eval_crop: float = option(
        1.0, "share of the resized image that evaluation's centre crop keeps", min=0.1, max=1.0, decides=EVERYTHING
    )
    mean: Optional[list[float]] = option(
        None,
        "channel means for normalising; default: the student model's",
        min=0.0,
        max=1.0,
        decides=(OUTPUTS, STUDENT),
    )
    std: Optional[list[float]] = option(
        None, "channel deviations for normalising; default: the student model's", min=0.001, max=1.0
    )


class Recipe(schema.Recipe):
    """A recipe of this task, as its modules see it: ``kdtool.recipe.schema.recipe_type`` makes the class itself."""

    data: Data
    student: Student
    teacher: list[Teacher]  # type: ignore[assignment]
