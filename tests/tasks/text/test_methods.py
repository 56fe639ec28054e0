"""Every method on text: padding never counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kdtool import registry
from kdtool.engine.tree import Views
from kdtool.testing.bench import Bench
from kdtool.testing.faults import RefusedError
from tests.running import call
from tests.sampling import every

METHODS = {entry.name: entry.load() for entry in registry.entries() if entry.distribution == "kdtool"}


REFUSED = {"sskd": "rotated90"}
"""Methods of what is there for images alone."""


def further(batch: Any) -> Any:
    """Return the batch with five more tokens of padding behind each text, in every view."""

    def padded(inputs: Any) -> Any:
        if isinstance(inputs, Views):
            return Views(padded(inputs.own), {name: padded(each) for name, each in inputs.further.items()})
        pad = torch.nn.functional.pad
        return {key: {name: pad(t, (0, 5)) for name, t in each.items()} for key, each in inputs.items()}

    return dataclasses.replace(batch, inputs=padded(batch.inputs))


@pytest.mark.parametrize("name", every(3, sorted(METHODS), first=1))
def test_padding_never_counts(name: str) -> None:
    bench = Bench(METHODS[name], name, "text")
    if name in REFUSED:
        with pytest.raises(RefusedError, match=REFUSED[name]):
            bench.rig("BERT", "BERT", precision="fp64")
        return
    rigs = [bench.rig("BERT", "BERT", precision="fp64") for _ in range(2)]
    for number, stage in enumerate(rigs[0].stages):
        found = []
        for rig, change in zip(rigs, (lambda batch: batch, further), strict=True):
            rig.enter(rig.stages[number])
            rig.step.student.eval()  # dropout draws by the shape
            for peer in rig.step.peers:
                peer.eval()
            found.append(rig.terms(change(rig.batches[0])))
        assert found[0].keys() == found[1].keys()
        for term, value in found[0].items():
            assert torch.isclose(value, found[1][term], rtol=1e-9, atol=1e-12), (stage.name, term)


def test_two_classes_leave_dkd_one_term_and_that_is_said(tmp_path: Any) -> None:
    lines = [f"{word} {number}\t{word}" for number in range(20) for word in ("good", "bad")]
    (tmp_path / "two.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    common = ["run", "--task", "text", "--data", tmp_path / "two.tsv", "--dry-run", "--teacher", "transformer-tiny"]
    assert "the term of the others is always 0" in call(*common, "--method", "dkd").out
    assert "the term of the others is always 0" in call(*common, "--method", "rkd+dkd").out
    assert "always 0" not in call(*common, "--method", "kd").out
