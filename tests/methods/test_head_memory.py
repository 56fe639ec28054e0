"""No row-wise method needs more than 512 MB beyond the weights at 2,048 rows x 49,152 classes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("resource")  # which tells the peak

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "head_memory.py"


def _program() -> ModuleType:
    spec = importlib.util.spec_from_file_location(PROGRAM.stem, PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HEAD_MEMORY = _program()
ROWS, CLASSES, MOST = 2048, 49152, 512 * 2**20
FORMS = [*((name, ()) for name in HEAD_MEMORY.row_wise()), ("minillm", ("objective=policy_gradient",))]
"""Every method of the registry that reads logits alone, as it is; and a form that has a loss of its own."""

each_form = pytest.mark.parametrize(
    ("name", "options"), FORMS, ids=["-".join((name, *options)) for name, options in FORMS]
)


@pytest.mark.slow
@each_form
def test_a_step_at_the_size_of_a_language_model_is_bounded(name: str, options: tuple[str, ...]) -> None:
    found = HEAD_MEMORY.measured(name, ROWS, CLASSES, False, options)
    assert found["bytes"] < MOST


@pytest.mark.slow
@each_form
def test_by_rows_it_is_the_same_loss_and_gradient(name: str, options: tuple[str, ...]) -> None:
    whole, by_rows = (HEAD_MEMORY.measured(name, 300, 1000, each, options)["sums"] for each in (True, False))
    assert by_rows == pytest.approx(whole, rel=2e-5, abs=1e-7)
