"""Which of several ways to quantise: the first that changes few enough answers, else the one that changes fewest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

S = TypeVar("S")


def search(
    settings: Sequence[S],
    make: Callable[[S], Any],
    changed: Callable[[Any], float],
    enough: float,
    say: Callable[[str], None],
    unit: str,
) -> tuple[Any, list[dict[str, Any]]]:
    """Return a model, and for each setting that was tried the share of answers that it changes.

    Args:
        settings: tried in this order, the fastest first; as text they are what the user reads.
        make: returns a setting's model.
        changed: a model's share of validation samples with another top class than the student gives.
        enough: the share at which the search ends.
        say: is told each setting and its share.
        unit: what the samples are called.
    """
    tried: list[dict[str, Any]] = []
    best: tuple[float, Any] | None = None
    for setting in settings:
        made = make(setting)
        share = changed(made)
        tried.append({"setting": str(setting), "changed": share})
        say(f"int8, {setting}: {share:.2%} of the validation {unit} get another class")
        if best is None or share < best[0]:
            best = (share, made)
        if share <= enough:
            break
    assert best is not None
    return best[1], tried
