"""Long lists of cases: `make test` tries some of them, `make test-all` all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Return cases as parameters, all but the ``fast`` ones marked as slow; a tuple is one case."""
    found = list(cases)
    assert all(each in found for each in fast)
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if case in fast else [pytest.mark.slow])
        for case in found
    ]
