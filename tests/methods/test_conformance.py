"""Every built-in method keeps what the contract promises the engine: a new one is tested by existing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdtool import registry
from kdtool.testing import check_names, parametrize_with_checks

METHODS = {entry.name: entry.load() for entry in registry.entries() if entry.distribution == "kdtool"}


@parametrize_with_checks(METHODS)
def test_conformance(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(METHODS, checks=check_names(slow=True))
def test_conformance_in_full(check: Callable[[], None]) -> None:
    check()
