"""Running the checks: on a method or a task, as pytest parameters, and one by one for the command line."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kdtool.errors import InputError, did_you_mean
from kdtool.method import Method
from kdtool.registry import tasks
from kdtool.tasks.task import Task
from kdtool.testing.bench import Bench
from kdtool.testing.checks import CHECKS, TASK_CHECKS, Check
from kdtool.testing.faults import CheckError, RefusedError
from kdtool.testing.task_samples import TaskBench

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
        result: "pass", "fail", "expected" (a declared failure), or "skip" where it does not concern the class.
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
    task: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    slow: bool = False,
) -> Iterator[Outcome]:
    """Yield the outcome of every check of a method as it ends.

    Args:
        cls: the method.
        name: what messages call it; default: the class's name.
        task: on whose networks and samples; default: the task of a recipe that names none.
        expected_failures: reasons by name of the check. Such a check has to fail, so that no exception outlives its
            cause.
        slow: also run those that take minutes (inductor, all pairs in two processes).

    Raises:
        InputError: an expected failure of a check that does not exist.
        CheckError: a script calls this as it is imported, and so would each process that the checks start, in turn.
    """
    bench = Bench(cls, name or cls.__name__, task or tasks.default())
    yield from _outcomes(CHECKS, bench, expected_failures or {}, slow)


def run_task_checks(task: str | type[Task], *, expected_failures: Mapping[str, str] | None = None) -> Iterator[Outcome]:
    """Yield the outcome of every check of a task as it ends.

    Args:
        task: an installed one, by its name or its class.
        expected_failures: as for ``run_checks``.

    Raises:
        InputError: there is no such task, or an expected failure of a check that does not exist.
        CheckError: as for ``run_checks``.
    """
    yield from _outcomes(TASK_CHECKS, _task_bench(task), expected_failures or {}, slow=True)


def check_method(
    cls: type[Method],
    name: str | None = None,
    *,
    task: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    slow: bool = False,
) -> list[Outcome]:
    """Check that a method keeps what the contract promises the engine, and return how each check went.

    Arguments are those of ``run_checks``.

    Raises:
        CheckError: one or more checks failed; the message names each with its cause.
        InputError: an expected failure of a check that does not exist.
    """
    found = run_checks(cls, name, task=task, expected_failures=expected_failures, slow=slow)
    return _passed(name or cls.__name__, list(found))


def check_task(task: str | type[Task], *, expected_failures: Mapping[str, str] | None = None) -> list[Outcome]:
    """Check that a task keeps its contract, and return how each check went.

    Arguments are those of ``run_task_checks``.

    Raises:
        CheckError: one or more checks failed; the message names each with its cause.
        InputError: there is no such task, or an expected failure of a check that does not exist.
    """
    name = task if isinstance(task, str) else task.name
    return _passed(name, list(run_task_checks(task, expected_failures=expected_failures)))


def parametrize_with_checks(
    methods: type[Method] | Mapping[str, type[Method]],
    *,
    task: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    checks: Sequence[str] | None = None,
) -> pytest.MarkDecorator:
    """Return a pytest mark that calls a test once for every method and check that concerns it::

        @parametrize_with_checks(MyMethod)
        def test_conformance(check):
            check()

    Args:
        methods: a method, or several by name.
        task: on whose networks and samples; default: the task of a recipe that names none.
        expected_failures: reasons by name of the check, or by ``"method:check"`` where it concerns one of several.
            The test of such a check is an xfail that has to fail.
        checks: names of the checks to run; default: all that are not slow. ``check_names()`` lists them.

    Raises:
        InputError: a check or method that does not exist.
    """
    named = {methods.__name__: methods} if isinstance(methods, type) else dict(methods)
    task = task or tasks.default()
    benches = {name: Bench(cls, name, task) for name, cls in named.items()}
    _refuse_unknown(checks or (), CHECKS)
    wanted = set(checks if checks is not None else check_names())
    return _parametrized([check for check in CHECKS if check.name in wanted], benches, expected_failures or {}, CHECKS)


def parametrize_with_task_checks(
    task: str | type[Task], *, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Return a pytest mark that calls a test once for every check of a task::

        @parametrize_with_task_checks("my_task")
        def test_conformance(check):
            check()

    Args:
        task: an installed one, by its name or its class.
        expected_failures: reasons by name of the check, whose test is an xfail that has to fail.

    Raises:
        InputError: there is no such task, or no such check.
    """
    bench = _task_bench(task)
    return _parametrized(TASK_CHECKS, {bench.name: bench}, expected_failures or {}, TASK_CHECKS)


def check_names(slow: bool | None = False) -> list[str]:
    """Return the names of the quick checks (``slow=False``), of the slow ones (True), or of all (None)."""
    return [check.name for check in CHECKS if slow is None or check.slow == slow]


def _task_bench(task: str | type[Task]) -> TaskBench:
    name = task if isinstance(task, str) else task.name
    return TaskBench(type(tasks.get(name)), name)


def _parametrized(
    checks: Sequence[Check], benches: Mapping[str, Any], expected: Mapping[str, str], known: Sequence[Check]
) -> pytest.MarkDecorator:
    import pytest

    reasons = _by_subject(expected, list(benches), known)
    parameters = []
    # Check by check, so that those which need other processes share them.
    for check in checks:
        for name, bench in benches.items():
            if check.unless(bench.cls) is None:
                reason = reasons.get((name, check.name))
                marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
                run = partial(_skipping, check.run, bench)
                parameters.append(pytest.param(run, id=f"{name}-{check.name}", marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _skipping(run: Callable[[Any], None], bench: Any) -> None:
    import pytest

    try:
        run(bench)
    except RefusedError as why:
        pytest.skip(str(why))


def _outcomes(checks: Sequence[Check], bench: Any, expected: Mapping[str, str], slow: bool) -> Iterator[Outcome]:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise CheckError(UNGUARDED)
    _refuse_unknown(expected, checks)
    for check in checks:
        if slow or not check.slow:
            yield _outcome(check, bench, expected.get(check.name))


def _passed(name: str, outcomes: list[Outcome]) -> list[Outcome]:
    failed = [f"- {outcome.check}: {outcome.reason}" for outcome in outcomes if outcome.result == "fail"]
    if failed:
        raise CheckError("\n".join([f"{name} fails {len(failed)} of {len(outcomes)} checks:", *failed]))
    return outcomes


def _outcome(check: Check, bench: Any, expected: str | None) -> Outcome:
    skipped = check.unless(bench.cls)
    if skipped is not None:
        return Outcome(check.name, check.promise, "skip", skipped)
    began = time.perf_counter()
    result, reason = "pass", ""
    try:
        check.run(bench)
    except RefusedError as why:
        result, reason = "skip", str(why)
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


def _by_subject(expected: Mapping[str, str], subjects: list[str], known: Sequence[Check]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for key, reason in expected.items():
        subject, colon, check = key.rpartition(":")
        if colon and subject not in subjects:
            raise InputError(f"expected_failures names no method here: {subject!r}. {did_you_mean(subject, subjects)}")
        _refuse_unknown([check], known)
        found |= {(name, check): reason for name in ([subject] if colon else subjects)}
    return found


def _refuse_unknown(names: Sequence[str] | Mapping[str, str], known: Sequence[Check]) -> None:
    all_names = [check.name for check in known]
    for name in names:
        if name not in all_names:
            raise InputError(f"there is no check {name!r}. {did_you_mean(name, all_names)}")
