"""The table of operations that the host starts: made of what was counted, and counted by itself."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).resolve().parents[1] / "BENCHMARKS.md"


@pytest.fixture
def operations() -> ModuleType:
    return importlib.import_module("benchmarks.operations")


def test_the_page_holds_what_was_counted(operations: ModuleType) -> None:
    section = PAGE.read_text(encoding="utf-8").partition(f"{operations.BEGIN}\n")[2].partition(operations.END)[0]
    assert section == operations.page(operations.kept())
    assert "| `kd` | computed |" in section


def test_no_program_writes_into_what_another_one_writes() -> None:
    """What stands between a program's marks is lost when it writes again."""
    begun: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"<!-- (.+): made by \S+ -->", line):
            assert begun == []
            begun.append(found[1])
        elif found := re.fullmatch(r"<!-- end of (.+) -->", line):
            assert begun.pop() == found[1]
    assert begun == []


def test_a_table_tells_what_is_recorded_and_why_not(operations: ModuleType) -> None:
    counted = {"step": 9, "first": 12}
    page = operations.page(
        {
            "b": {"computed": {**counted, "recorded": 3, "inside": 11}, "replayed": {"live": "a map is read"}},
            "a": {"computed": {**counted, "why": "it draws on the host"}},
            "c": {"refused": {"why": "no tokens"}},
        }
    )
    first = "| `a` | computed | 9 | 12 | not: it draws on the host |  |\n| `b` | computed | 9 | 12 | 3 | 11 |\n\n"
    assert first + "No outputs are replayed for `b` (a map is read)." in page
    assert "This pair is none for `c`." in page


@pytest.mark.slow
def test_a_step_is_counted(operations: ModuleType) -> None:
    assert operations.measured("kd") == operations.kept()["kd"]
