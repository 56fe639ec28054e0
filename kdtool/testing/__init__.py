"""The conformance kit: does a method keep what the contract promises the engine?

    from kdtool.testing import parametrize_with_checks

    @parametrize_with_checks(MyMethod)
    def test_conformance(check):
        check()

``check_method(MyMethod)`` runs the same without pytest, and ``kdtool check my_method`` on an installed plugin. All run
on the CPU, with timm's tiny test networks.
"""

from __future__ import annotations

from kdtool.testing.checks import CHECKS, Check
from kdtool.testing.faults import CheckError
from kdtool.testing.kit import Outcome, check_method, check_names, parametrize_with_checks, run_checks

__all__ = [
    "CHECKS",
    "Check",
    "CheckError",
    "Outcome",
    "check_method",
    "check_names",
    "parametrize_with_checks",
    "run_checks",
]
