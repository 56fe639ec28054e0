"""What a task gives of a network that is to be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Profiled:
    """A network to be timed.

    Attributes:
        about: what tables show of it: "part" (teacher, student, export or model), "name", "kind", "params", "macs",
            "bytes", "input" (how large a sample is, as ``Built.dry_input`` says it) and whatever the task adds;
            "tokens": how many of them a sample is, where these are what one counts.
        forward: given a batch size and a device, returns a function that runs it once.
        held: given a batch size, returns the bytes that a forward holds at most, None where they are not known; None:
            it is torch's own, and its tensors are counted.
    """

    about: Mapping[str, Any]
    forward: Callable[[int, torch.device], Callable[[], object]]
    held: Callable[[int], int | None] | None = None
