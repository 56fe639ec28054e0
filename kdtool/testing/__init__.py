"""The conformance kit: does a method, or a task, keep what its contract promises?

    from kdtool.testing import parametrize_with_checks

    @parametrize_with_checks(MyMethod)
    def test_conformance(check):
        check()

``check_method(MyMethod)`` runs the same without pytest, and ``kdtool check my_method`` on an installed plugin. All run
on the CPU, with a task's tiny networks. ``parametrize_with_task_checks`` and ``check_task`` do the same for a task.
"""

from __future__ import annotations

from kdtool.testing.checks import CHECKS, TASK_CHECKS, Check
from kdtool.testing.faults import CheckError
from kdtool.testing.kit import (
    Outcome,
    check_method,
    check_names,
    check_task,
    parametrize_with_checks,
    parametrize_with_task_checks,
    run_checks,
    run_task_checks,
)

__all__ = [
    "CHECKS",
    "TASK_CHECKS",
    "Check",
    "CheckError",
    "Outcome",
    "check_method",
    "check_names",
    "check_task",
    "parametrize_with_checks",
    "parametrize_with_task_checks",
    "run_checks",
    "run_task_checks",
]
