"""How the loss terms share the student's gradient: a term that supplies next to nothing, or all, is worth a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kdtool.method import Terms

LOW, HIGH = 0.01, 0.99
"""Shares outside these bounds are warned of, where a stage has two or more terms."""


def gradient_norms(terms: Terms, parameters: Iterable[Tensor]) -> Terms:
    """Return the L2 norm of each weighted term's gradient by the parameters, as scalars on their device.

    Terms that the parameters have no part in (a peer's own loss, say) are left out. The graph stays for the step's
    own backward.
    """
    trained = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, term in terms.items():
        if term.requires_grad and trained:
            gradients = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
            squares = [g.float().square().sum() for g in gradients if g is not None]
            if squares:
                norms[name] = torch.stack(squares).sum().sqrt()
    return norms


def shares(norms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return each term's share of the sum of the norms, in [0, 1]; {} where one did not fit fp16. Reads the device."""
    if not norms:
        return {}
    values = torch.stack(list(norms.values())).cpu().double()
    if not values.isfinite().all():
        return {}
    whole = values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return dict(zip(norms, (values / whole).tolist(), strict=True))


def imbalance(stage: str, found: Mapping[str, float]) -> str | None:
    """Return a sentence about terms with too small or too large a share, None where all is well."""
    if len(found) < 2:
        return None
    odd = {name: share for name, share in found.items() if not LOW <= share <= HIGH}
    if not odd:
        return None
    said = ", ".join(f"{name} {share:.2%}" for name, share in odd.items())
    return f"stage {stage}: shares of the student's gradient are lopsided ({said}); the terms' weights may be off."
