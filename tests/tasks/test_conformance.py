"""Every task that kdtool ships keeps the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdtool.registry import tasks
from kdtool.testing import parametrize_with_task_checks
from tests.sampling import every

OWN = [entry.name for entry in tasks.entries() if entry.distribution == "kdtool"]
EACH = [
    parameter
    for number, name in enumerate(OWN)
    for parameter in every(3, parametrize_with_task_checks(name).args[1], first=number % 3)
]
"""`make test` tries every third check of a task, and of the next task others."""


@pytest.mark.parametrize("check", EACH)
def test_it_keeps_the_contract(check: Callable[[], None]) -> None:
    check()
