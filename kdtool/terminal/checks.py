"""How the checks of a method went, as data and as a table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from kdtool.terminal import words

if TYPE_CHECKING:
    from kdtool.testing import Outcome


def passed(outcomes: Sequence[Outcome]) -> bool:
    """Tell whether no check failed."""
    return all(outcome.result != "fail" for outcome in outcomes)


def document(method: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return {"method", "passed", "checks": [{"check", "promise", "result", "reason", "seconds"}]}."""
    checks = [
        {
            "check": outcome.check,
            "promise": outcome.promise,
            "result": outcome.result,
            "reason": outcome.reason,
            "seconds": round(outcome.seconds, 2),
        }
        for outcome in outcomes
    ]
    return {"method": method, "passed": passed(outcomes), "checks": checks}


@contextlib.contextmanager
def progress(stream: TextIO) -> Iterator[Callable[[Outcome], Outcome]]:
    """Yield a function that shows an outcome in passing and returns it; nothing shows where no terminal is."""
    from rich.console import Console

    with Console(file=stream).status("checking") as status:

        def show(outcome: Outcome) -> Outcome:
            status.update(f"checked: {outcome.promise}")
            return outcome

        yield show


def show_table(method: str, outcomes: Sequence[Outcome], stream: TextIO) -> None:
    """Print a line for each check, and the sum."""
    from rich.console import Console
    from rich.text import Text

    from kdtool.terminal.grid import Grid, wrapped
    from kdtool.terminal.table import width_for

    console = Console(file=stream, highlight=False, width=width_for(stream))
    rows = [
        (each.check, each.result, f"{each.seconds:.1f}", each.promise, words.clean(each.reason)) for each in outcomes
    ]
    titles = ("check", "result", "seconds", "promise", "reason")
    console.print(wrapped(Grid(titles, rows), 2, console.width))
    count = sum(outcome.result == "fail" for outcome in outcomes)
    run = sum(outcome.result != "skip" for outcome in outcomes)
    console.print(Text(f"{method}: {f'{count} of {run} checks failed' if count else f'all {run} checks passed'}"))
