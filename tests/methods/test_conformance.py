"""Every built-in method keeps what the contract promises the engine: a new one is tested by existing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdtool import registry
from kdtool.testing import check_names, parametrize_with_checks

METHODS = {entry.name: entry.load() for entry in registry.entries() if entry.distribution == "kdtool"}


EVERY = 40
"""`make test` tries every check with every fortieth method, each check beginning with another one."""

SAMPLED = [
    each
    for number, name in enumerate(check_names())
    for each in parametrize_with_checks(dict(list(METHODS.items())[number % EVERY :: EVERY]), checks=[name]).args[1]
]
ON_TEXT = [name for name in check_names() if name not in ("contract", "options")]


@pytest.mark.parametrize("check", SAMPLED)
def test_conformance(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(METHODS, checks=check_names(slow=None))
def test_conformance_in_full(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(METHODS, checks=ON_TEXT, task="text")
def test_conformance_on_text(check: Callable[[], None]) -> None:
    check()
