"""Long lists of cases: `make test` tries some of them, `make test-all` all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Return cases as parameters, all but the ``fast`` ones marked as slow; a tuple is one case."""
    found = list(cases)
    assert all(each in found for each in fast)
    return _slow_but(found, [each in fast for each in found])


def every(number: int, cases: Iterable[Any], first: int = 0) -> list[Any]:
    """Return cases, or parameters, as parameters, all but every ``number``-th from ``first`` on marked as slow."""
    found = list(cases)
    return _slow_but(found, [at >= first and (at - first) % number == 0 for at in range(len(found))])


def _slow_but(cases: list[Any], fast: list[bool]) -> list[Any]:
    return [_parameter(case, [] if quick else [pytest.mark.slow]) for case, quick in zip(cases, fast, strict=True)]


def _parameter(case: Any, marks: list[pytest.MarkDecorator]) -> Any:
    if hasattr(case, "values") and hasattr(case, "marks"):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, *marks])
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
