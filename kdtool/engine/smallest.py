"""Parts of a batch that hold one sample, of which batch norms learn nothing and refuse to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from kdtool.engine.dry import undisturbed
from kdtool.engine.processes import world_size
from kdtool.errors import InputError

REFUSAL = "more than 1 value per channel"
"""What torch's batch norms say of a single value."""


def smallest_part(batch_size: int, processes: int, pieces: int) -> int:
    """Return the samples of the smallest part that a batch is divided into, as ``Loaded.split`` does it."""
    share = batch_size // processes
    size = max(1, -(-share // pieces))
    return share - size * (-(-share // size) - 1) if share else 0


@contextmanager
def told_of_single(where: str, samples: int) -> Iterator[None]:
    """Turn what batch norms say of one value a channel into an error for the user: those of a method's own parts.

    Raises:
        InputError: they said it.
    """
    try:
        yield
    except ValueError as error:
        if REFUSAL not in str(error):
            raise
        raise InputError(
            f"{where}: batch norms cannot learn from one value a channel, and a part of the batch has {samples} "
            "sample(s). Choose a larger train.batch_size, or a smaller train.accumulate."
        ) from error


def refuse_single(name: str, network: nn.Module, inputs: Any, batch_size: int, pieces: int, key: str) -> None:
    """Refuse batches of which a part has one sample, where a network cannot train on one.

    Args:
        name: of the network, for the message.
        network: tapped.
        inputs: one sample that it takes.
        batch_size: samples in a global batch.
        pieces: micro-batches that each process makes of its share.
        key: the recipe's key of the batch size.

    Raises:
        InputError: so it is.
    """
    processes = world_size()
    if smallest_part(batch_size, processes, pieces) != 1:
        return
    try:
        with undisturbed(network, training=True):
            network(inputs)
    except ValueError as error:
        if REFUSAL not in str(error):
            raise
        among = [f"{processes} processes"] * (processes > 1) + [f"train.accumulate={pieces}"] * (pieces > 1)
        shared = f", shared by {' and '.join(among)}," if among else ""
        raise InputError(
            f"{key}={batch_size}{shared} leaves a part of one sample, and the batch norms of {name} cannot learn from "
            f"one value a channel. Choose a multiple of {2 * processes * pieces}, or a network without batch norms."
        ) from error
