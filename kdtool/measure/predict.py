"""``kdtool.predict``: whichever task a network is of applies it to new inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdtool.runs.tasks import task_of
from kdtool.tasks.prediction import Prediction
from kdtool.tasks.task import Say


def predict(
    target: str | Path,
    inputs: str | Path | Sequence[str | Path] = (),
    *,
    samples: Iterable[Any] | None = None,
    task: str | None = None,
    weights: str = "auto",
    image_size: int | None = None,
    top: int = 1,
    new_tokens: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
) -> Iterator[Prediction]:
    """Return the classes of new inputs, or what a network that writes goes on with, one after the other as they come.

    Nothing is held but a batch.

    Args:
        target: a run's folder, a saved model's folder, or a model's name.
        inputs: files and folders; "-" is standard input, where the task can read it.
        samples: the samples themselves instead, an iterable: sentences, prompts, or pictures and their paths.
        task: what the network is of; default: the run's, else the default one.
        weights, image_size: of a model by name; the latter of images only.
        top: how many classes of each input.
        new_tokens: of language models, tokens of a completion at most.
        batch_size: inputs at once.
        device: default: the best there is.
        overrides: texts ``data.key=value``, as the task takes them.
        say: takes sentences for the user.

    Raises:
        InputError: something that was given is wrong, or the task cannot do it; once all inputs have come, where none
            of them could be read.
    """
    names = [str(inputs)] if isinstance(inputs, (str, Path)) else [str(each) for each in inputs]
    given = {
        "samples": samples, "weights": None if weights == "auto" else weights, "image_size": image_size,
        "new_tokens": new_tokens, "batch_size": batch_size, "device": device, "say": say,
        "overrides": tuple(overrides) or None,
    }  # fmt: skip
    asked = {key: value for key, value in given.items() if value is not None}
    return task_of(target, task).predict(str(target), names, top=top, **asked)
