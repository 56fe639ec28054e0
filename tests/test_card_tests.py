"""Some of what ``make test-gpu-runs`` runs on a card, on one that is simulated: that it can be run at all, and asks for
nothing that is known not to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine import test_cuda
from tests.simulated import simulated

STEPS = [
    (test_cuda.test_training, {"precision": "bf16", "kind": test_cuda.Hinted}),
    (test_cuda.test_training, {"precision": "fp16", "kind": test_cuda.Related}),
    (test_cuda.test_no_step_waits_for_the_device, {}),
    *((test_cuda.test_the_update_of_a_bad_step_is_withheld, {"optimizer": name}) for name in ("adamw", "sgd", "lamb")),
]


def _name(value: Any) -> str:
    return value.__name__ if callable(value) else "-".join(map(str, value.values()))


@pytest.mark.parametrize(("test", "given"), STEPS, ids=_name)
def test_it_passes_on_a_simulated_card(test: Any, given: dict[str, Any], tmp_path: Path) -> None:
    with simulated():
        test(tmp_path, **given)


def test_prefetched_batches() -> None:
    with simulated():
        test_cuda.test_prefetched_batches_are_the_same()
