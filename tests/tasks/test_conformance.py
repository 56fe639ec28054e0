"""Every task that kdtool ships keeps the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdtool.registry import tasks
from kdtool.testing import parametrize_with_task_checks

EACH = [
    parameter
    for entry in tasks.entries()
    if entry.distribution == "kdtool"
    for parameter in parametrize_with_task_checks(entry.name).args[1]
]


@pytest.mark.parametrize("check", EACH)
def test_it_keeps_the_contract(check: Callable[[], None]) -> None:
    check()
