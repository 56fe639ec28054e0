"""Weights' names, brought to a network's own: without what training scripts put before them and beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from torch import Tensor

BOOKKEEPING = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Last parts of the names of what is counted and not computed with: by batch norms, averages of weights (torch's
``AveragedModel``) and profilers (thop). A network may lack them, and so may its weights."""

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


def counts(name: str) -> bool:
    """Tell whether a name is bookkeeping's."""
    return name.rpartition(".")[2] in BOOKKEEPING


def matched(state: Mapping[str, Tensor], own: Set[str], apart: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], str]:
    """Return weights under a network's own names, and the prefix that was left out of theirs.

    A prefix that all names share (``module.``, ``model.``, ``module.backbone.``) is left out where the network's own
    names lack it and the rest then fits exactly; else all names stay. Bookkeeping that the network lacks is left out.

    Args:
        state: the weights by name.
        own: the network's names.
        apart: what the names begin with that need not fit.
    """
    wanted = {name for name in own if not counts(name) and not name.startswith(apart)}
    for prefix in ("", *prefixes(state)):
        names = {name[len(prefix) :] for name in state if not counts(name)}
        if {name for name in names if not name.startswith(apart)} == wanted:
            stripped = {name.removeprefix(prefix): value for name, value in state.items()}
            return _without_counts(stripped, own), prefix
    return _without_counts(state, own), ""


def prefixes(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the dotted prefixes that all weights' names share, the shortest first."""
    names = [name for name in state if not counts(name)]
    parts = names[0].split(".")[:-1] if names else []
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count]) + "."
        if not all(name.startswith(prefix) for name in names):
            return
        yield prefix


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes of ``WRAPPERS``, for what knows other names than the network's own."""
    shared = [prefix for prefix in prefixes(state) if {part + "." for part in prefix[:-1].split(".")} <= set(WRAPPERS)]
    longest = shared[-1] if shared else ""
    return {name.removeprefix(longest): value for name, value in state.items()}


def _without_counts(state: Mapping[str, Tensor], own: Set[str]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name in own or not counts(name)}
