"""Every method on tokens: it runs, and padding never counts; or it is refused with the reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from kdtool import registry
from kdtool.testing.bench import Bench
from kdtool.testing.faults import RefusedError
from tests.sampling import every

METHODS = {entry.name: entry.load() for entry in registry.entries() if entry.distribution == "kdtool"}


REFUSED = {
    "at": "shares more than one position",
    "nst": "share one position only",
    "catkd": "no linear one",
    "srrl": "no linear one",
    "simkd": "no linear one",
    "sskd": "has none of that name",
    "mlkd": "has none of that name",
}
"""Methods of where in a map something is, for a token's features are one vector; of the teacher's classifier; and of
further views."""


def further(batch: Any) -> Any:
    """Return the batch with five more tokens of padding behind each sample."""
    pad = torch.nn.functional.pad
    inputs = {name: pad(each, (0, 5), value=3 if name == "ids" else 0) if each.ndim == 2 else each
              for name, each in batch.inputs.items()}  # fmt: skip
    return dataclasses.replace(batch, inputs=inputs)


@pytest.mark.parametrize("name", every(3, sorted(METHODS)))
def test_padding_never_counts(name: str) -> None:
    bench = Bench(METHODS[name], name, "language")
    if name in REFUSED:
        with pytest.raises(RefusedError, match=REFUSED[name]):
            bench.rig("LLaMA", "LLaMA", precision="fp64")
        return
    rigs = [bench.rig("LLaMA", "LLaMA", precision="fp64") for _ in range(2)]
    for number, stage in enumerate(rigs[0].stages):
        found = []
        for rig, change in zip(rigs, (lambda batch: batch, further), strict=True):
            rig.enter(rig.stages[number])
            found.append(rig.terms(change(rig.batches[0])))
        assert found[0].keys() == found[1].keys()
        for term, value in found[0].items():
            assert torch.isclose(value, found[1][term], rtol=1e-9, atol=1e-12), (stage.name, term)
