"""Running the checks: on one method, as pytest parameters, and one by one for the command line."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdtool.errors import InputError, did_you_mean
from kdtool.method import Method
from kdtool.testing.bench import Bench
from kdtool.testing.checks import CHECKS, Check
from kdtool.testing.faults import CheckError

if TYPE_CHECKING:
    import pytest

UNGUARDED = (
    "a process that the checks start imports the script that runs them, which runs them again: "
    'put the call under `if __name__ == "__main__":`'
)


@dataclass(frozen=True)
class Outcome:
    """How one check went.

    Attributes:
        check: its name.
        promise: what it makes sure of.
        result: "pass", "fail", "expected" (a declared failure), or "skip" where it does not concern the method.
        reason: what broke, why that was expected, or why it was skipped; "" for a pass.
        seconds: how long it took.
    """

    check: str
    promise: str
    result: str
    reason: str = ""
    seconds: float = 0.0


def run_checks(
    cls: type[Method],
    name: str | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    slow: bool = False,
) -> Iterator[Outcome]:
    """Yield the outcome of every check as it ends.

    Args:
        cls: the method.
        name: what messages call it; default: the class's name.
        expected_failures: reasons by name of the check. Such a check has to fail, so that no exception outlives its
            cause.
        slow: also run those that take minutes (inductor, all pairs in two processes).

    Raises:
        InputError: an expected failure of a check that does not exist.
        CheckError: a script calls this as it is imported, and so would each process that the checks start, in turn.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise CheckError(UNGUARDED)
    expected = dict(expected_failures or {})
    _refuse_unknown(expected)
    bench = Bench(cls, name or cls.__name__)
    for check in CHECKS:
        if slow or not check.slow:
            yield _outcome(check, bench, expected.get(check.name))


def check_method(
    cls: type[Method],
    name: str | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    slow: bool = False,
) -> list[Outcome]:
    """Check that a method keeps what the contract promises the engine, and return how each check went.

    Arguments are those of ``run_checks``.

    Raises:
        CheckError: one or more checks failed; the message names each with its cause.
        InputError: an expected failure of a check that does not exist.
    """
    outcomes = list(run_checks(cls, name, expected_failures=expected_failures, slow=slow))
    failed = [f"- {outcome.check}: {outcome.reason}" for outcome in outcomes if outcome.result == "fail"]
    if failed:
        raise CheckError("\n".join([f"{name or cls.__name__} fails {len(failed)} of {len(outcomes)} checks:", *failed]))
    return outcomes


def parametrize_with_checks(
    methods: type[Method] | Mapping[str, type[Method]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    checks: Sequence[str] | None = None,
) -> pytest.MarkDecorator:
    """Return a pytest mark that calls a test once for every method and check that concerns it::

        @parametrize_with_checks(MyMethod)
        def test_conformance(check):
            check()

    Args:
        methods: a method, or several by name.
        expected_failures: reasons by name of the check, or by ``"method:check"`` where it concerns one of several.
            The test of such a check is an xfail that has to fail.
        checks: names of the checks to run; default: all that are not slow. ``check_names()`` lists them.

    Raises:
        InputError: a check or method that does not exist.
    """
    import pytest

    named = {methods.__name__: methods} if isinstance(methods, type) else dict(methods)
    expected = _by_method(expected_failures or {}, list(named))
    _refuse_unknown(checks or ())
    wanted = set(checks if checks is not None else check_names())
    parameters = []
    # Check by check, so that those which need other processes share them.
    for check in (check for check in CHECKS if check.name in wanted):
        for name, cls in named.items():
            if check.unless(cls) is not None:
                continue
            reason = expected.get((name, check.name))
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            parameters.append(pytest.param(_bound(check, Bench(cls, name)), id=f"{name}-{check.name}", marks=marks))
    return pytest.mark.parametrize("check", parameters)


def check_names(slow: bool | None = False) -> list[str]:
    """Return the names of the quick checks (``slow=False``), of the slow ones (True), or of all (None)."""
    return [check.name for check in CHECKS if slow is None or check.slow == slow]


def _bound(check: Check, bench: Bench) -> Callable[[], None]:
    return lambda: check.run(bench)


def _outcome(check: Check, bench: Bench, expected: str | None) -> Outcome:
    skipped = check.unless(bench.cls)
    if skipped is not None:
        return Outcome(check.name, check.promise, "skip", skipped)
    began = time.perf_counter()
    result, reason = "pass", ""
    try:
        check.run(bench)
    except CheckError as error:
        result, reason = "fail", str(error)
    except Exception as error:  # a plugin may fail in any way
        result, reason = "fail", f"{type(error).__name__}: {error}"
    if expected is not None:
        result, reason = (
            ("expected", expected)
            if result == "fail"
            else ("fail", f"passes, though declared to fail ({expected}): remove the declaration")
        )
    return Outcome(check.name, check.promise, result, reason, time.perf_counter() - began)


def _by_method(expected: Mapping[str, str], methods: list[str]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for key, reason in expected.items():
        method, colon, check = key.rpartition(":")
        if colon and method not in methods:
            raise InputError(f"expected_failures names no method here: {method!r}. {did_you_mean(method, methods)}")
        _refuse_unknown([check])
        found |= {(name, check): reason for name in ([method] if colon else methods)}
    return found


def _refuse_unknown(names: Sequence[str] | Mapping[str, str]) -> None:
    for name in names:
        if name not in check_names(None):
            raise InputError(f"there is no check {name!r}. {did_you_mean(name, check_names(None))}")
