"""``kdtool.predict`` for images: classes of new pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.tasks.common.predicting import BATCH, Item, check, in_chunks, predicted
from kdtool.tasks.common.targets import Found
from kdtool.tasks.images.data.decode import UNREADABLE, decode, decode_bytes, in_colour
from kdtool.tasks.images.data.files import images_below, known_endings
from kdtool.tasks.images.evaluation.predictions import EvaluationViews
from kdtool.tasks.images.evaluation.target import MODEL_KEYS, find, open_target, refuse_backbone
from kdtool.tasks.images.options import Data, Recipe
from kdtool.tasks.prediction import Prediction
from kdtool.tasks.task import Say

STDIN = "-"
"""What stands for standard input."""


def predict(
    target: str,
    inputs: Sequence[str] = (),
    *,
    samples: Iterable[Any] | None = None,
    weights: str = "auto",
    image_size: int | None = None,
    top: int = 1,
    batch_size: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    say: Say | None = None,
    **others: Any,
) -> Iterator[Prediction]:
    """Return what a network makes of images.

    Args:
        target: a run's folder, a saved model's folder, a model's name, or an exported file.
        inputs: image files, and folders of them; "-" is one image, on standard input.
        samples: images of PIL, or paths, instead.
        weights, image_size: of a model by name.
        top: how many classes of each.
        batch_size: images at once.
        device: where the network runs; exported files run on the CPU.
        overrides: texts ``student.mean=…`` and the like for a model by name, as for ``kdtool.evaluate``.
        say: takes sentences for the user.
        others: what other tasks take: refused by name.

    Raises:
        InputError: something that was given is wrong.
    """
    for name in others:
        raise InputError(f"--{name.replace('_', '-')} does not apply to images: leave it out.")
    found = find(target)
    recipe = _recipe(found, overrides)
    files = _files(inputs)
    opened = open_target(found, None, weights, image_size, recipe)
    refuse_backbone(opened)
    for note in opened.notes if say is not None else ():
        say(note)  # type: ignore[misc]
    names = opened.class_names or [str(number) for number in range(opened.num_classes)]
    check(top, batch_size, names, samples, inputs)
    views, place = EvaluationViews(Data(), opened.preprocessing), pick_device(device)
    network = opened.network.eval().to(place, torch.float32)

    @torch.no_grad()
    def logits(pixels: list[Tensor]) -> Tensor:
        images = views.device(torch.stack(pixels).to(place), torch.arange(len(pixels)), 0)
        outputs: Tensor = network(images)[0]
        return outputs

    items = (_file(path, views) for path in files) if samples is None else _given(samples, views)
    several = opened.targets == "multi"
    return predicted(in_chunks(items, batch_size or BATCH), logits, names, top, "images", several)


def _recipe(found: Found, overrides: Sequence[str]) -> Recipe:
    """Return the recipe that says what a model by name expects of its input.

    Raises:
        InputError: another key.
    """
    for text in overrides:
        if found.kind != "model" or text.partition("=")[0] not in MODEL_KEYS:
            raise InputError(
                f"{text}: no key of the recipe applies to new images, but for a model by name {', '.join(MODEL_KEYS)}."
            )
    flags = {"task": "images", "method": "none"}
    return cast(Recipe, recipes.load(None, overrides, flags))


def _files(inputs: Sequence[str]) -> list[str]:
    """Return the paths of all images.

    Raises:
        InputError: there is no such file or folder, or no image in a folder.
    """
    found: list[str] = []
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_dir():
            below = list(images_below(path))
            if not below:
                raise InputError(f"{name} holds no images ({known_endings()}).")
            found += below
        elif path.is_file():
            found.append(str(path))
        elif name == STDIN and STDIN not in found:
            found.append(STDIN)
        else:
            raise InputError(
                "standard input is one image: name it once."
                if name == STDIN
                else f"there is no file or folder {name!r}."
            )
    return found


def _file(path: str, views: EvaluationViews) -> Item:
    try:
        image = decode_bytes(sys.stdin.buffer.read()) if path == STDIN else decode(path)
        return Item(path, None, os.path.basename(path), views.host(image, 0, 0))
    except UNREADABLE as error:
        return Item(path, None, os.path.basename(path), problem=f"it cannot be read as an image ({error}).")


def _given(samples: Iterable[Any], views: EvaluationViews) -> Iterator[Item]:
    for number, sample in enumerate(samples, 1):
        if isinstance(sample, Image.Image):
            yield Item("", number, f"image {number}", views.host(in_colour(sample), 0, 0))
        else:
            yield _file(str(sample), views)
