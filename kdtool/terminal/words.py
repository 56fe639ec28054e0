"""Numbers and names as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def clean(text: Any) -> str:
    """Return text on one line that cannot steer a terminal: control characters appear escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def numbered(teachers: Sequence[T]) -> list[tuple[str, T]]:
    """Return each with what it is called: "teacher", or "teacher 1" and so on where there are several."""
    return [(f"teacher {i}" if len(teachers) > 1 else "teacher", each) for i, each in enumerate(teachers, 1)]


def percent(share: float | None) -> str:
    """Return 0.9712 as "97.12 %", and "-" for nothing."""
    return "-" if share is None else f"{100 * share:.2f} %"


def count(number: float | None) -> str:
    """Return 25557032 as "25.6 M", and "-" for nothing."""
    if number is None:
        return "-"
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}" if number < 999.5 * limit else f"{number / limit:.0f}{unit}"
    return f"{number:.0f}"


def size(number: float | None) -> str:
    """Return bytes as "17.2 MB" (powers of ten), and "-" for nothing."""
    if number is None:
        return "-"
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """Return 3725 as "1:02:05" and 65 as "1:05"."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def time_left(count: float, per_s: float) -> str:
    """Return "ETA 1:05" for what is left to do, "" where nothing is."""
    if count <= 0:
        return ""
    return f"ETA {duration(count / per_s)}" if per_s > 0 else "ETA ..."


def loss_terms(terms: Mapping[str, float]) -> str:
    """Return the total first, then every term: "loss 0.412 (kl 0.300, task 0.112)"."""
    each = ", ".join(f"{clean(name)} {value:.4g}" for name, value in terms.items() if name != "total")
    if "total" not in terms:
        return each
    return f"loss {terms['total']:.4g}" + (f" ({each})" if each else "")
