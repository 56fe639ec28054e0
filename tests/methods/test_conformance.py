"""Every built-in method keeps what the contract promises the engine: a new one is tested by existing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdtool import registry
from kdtool.testing import check_names, parametrize_with_checks

METHODS = {entry.name: entry.load() for entry in registry.entries() if entry.distribution == "kdtool"}


DEAR = ("compiled", "bf16", "processes")
"""Checks of which each takes seconds a method: `make test` tries every fourth method with each."""

QUICK = [name for name in check_names() if name not in DEAR]
SAMPLES = {check: dict(list(METHODS.items())[number::4]) for number, check in enumerate(DEAR)}


@parametrize_with_checks(METHODS, checks=QUICK)
def test_conformance(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    "check",
    [each for name in DEAR for each in parametrize_with_checks(SAMPLES[name], checks=[name]).args[1]],
)
def test_conformance_sampled(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(METHODS, checks=[*DEAR, *check_names(slow=True)])
def test_conformance_in_full(check: Callable[[], None]) -> None:
    check()
