"""Every method on simulated devices: nothing is left on the CPU, nothing is float64 on MPS, and no step waits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdtool import registry
from kdtool.engine import tree
from kdtool.engine.precision import Precision
from kdtool.testing.bench import Bench, Rig, total
from tests.sampling import sampled
from tests.simulated import simulated

METHODS = sorted(entry.name for entry in registry.entries())
WAITS = {
    "kdsvd": "a singular value decomposition",
    "vkd": "the exponential of a matrix, whose kernels choose a degree by its norm",
}
"""Methods whose loss makes the host wait, and for what."""

TOKENS_WAIT = {"ab", "fitnets", "ft", "vid"}
"""Methods that make the host wait where sequences are ragged: for how many tokens are real."""

NETWORKS_WAIT = {
    "BERT": "transformers' look whether there is any padding",
    "LLaMA": "how many rows a batch has, and transformers' search for packed samples",
}
"""Kinds of networks that make the host wait, and for what."""


def on(rig: Rig, device: torch.device, precision: str) -> Rig:
    """Move a rig to a device, and return it."""
    rig.precision = rig.step.precision = Precision(precision, device)
    rig.step.to(device)
    rig.teachers = [teacher.to(device) for teacher in rig.teachers]
    for batch in rig.batches:
        batch.inputs = tree.to(batch.inputs, device)
        batch.labels, batch.index = batch.labels.to(device), batch.index.to(device)
    return rig


def step(rig: Rig, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the terms and gradients of a batch, after which the method has updated its state."""
    terms, seen = rig.run(rig.batches[number])
    total(terms).backward()
    gradients = rig.gradients()
    with torch.no_grad():
        rig.method.after_step(seen)
    return {name: term.detach() for name, term in terms.items()}, gradients


def rig_of(name: str, kind: str, task: str, precision: str) -> Rig | None:
    """Return a rig of a method on a kind of student, None where it refuses that."""
    bench = Bench(registry.get(name), name, task)
    pair = next((pair for pair in bench.all_pairs if pair[0] == kind and pair not in bench.refusals), None)
    return None if pair is None else bench.rig(*pair, precision=precision)


ON = (("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16"), ("mps", "fp32"), ("mps", "fp16"))
KINDS = {"images": ("CNN", "ViT"), "text": ("BiLSTM", "BERT"), "language": ("LLaMA",)}


@pytest.mark.parametrize(
    ("name", "task", "kind", "device", "precision"),
    sampled(
        ((name, task, kind, *on) for name in METHODS for task, kinds in KINDS.items() for kind in kinds for on in ON),
        ("crd", "images", "CNN", "cuda", "bf16"),
        ("rkd", "images", "CNN", "mps", "fp32"),
        ("vitkd", "images", "ViT", "cuda", "fp32"),
        ("gkd", "language", "LLaMA", "mps", "fp32"),
    ),
)
def test_a_step_there_is_a_step_here(name: str, task: str, kind: str, device: str, precision: str) -> None:
    here, there = (rig_of(name, kind, task, precision) for _ in range(2))
    if here is None or there is None:
        pytest.skip(f"{name} refuses a {kind}")
    for ours, theirs in zip(here.stages, there.stages, strict=True):
        here.enter(ours)
        want = step(here, 1), step(here, 2)
        with simulated(device) as place:
            on(there, place(), precision).enter(theirs)
            first = step(there, 1)
            place.waits.clear()
            found = first, step(there, 2)
            waits = {what: count for what, count in place.waits.items() if count and what != "to device"}
            found = torch.utils._pytree.tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, found)
            there.step.to("cpu")
        named = name in WAITS or kind in NETWORKS_WAIT or (task == "text" and name in TOKENS_WAIT)
        assert named or not waits, waits
        assert waits or not named or task == "text", "it is named for a wait, and does not wait"
        for (terms, gradients), (own, own_gradients) in zip(want, found, strict=True):
            assert gradients.keys() == own_gradients.keys()
            assert all(term.isfinite() for term in own.values())
            if precision == "fp32":
                assert _apart(terms, own) < 1e-3
                assert _apart(gradients, own_gradients) < 1e-2


def _apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the distance of two sets of tensors over the size of the first."""
    size = sum(float(a.square().sum()) for a in one.values()) ** 0.5
    return sum(float((a - other[name]).square().sum()) for name, a in one.items()) ** 0.5 / max(size, 1e-12)
