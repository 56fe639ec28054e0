"""Updates that fp16's gradient scaler withheld: a few while it finds its scale are usual, many are worth a word."""

from __future__ import annotations

from collections.abc import Callable

from kdtool.engine.plan import Planned
from kdtool.engine.saving import Progress
from kdtool.errors import RunError

MANY = 0.1
"""Share of a stage's updates from which on they are warned of."""

ENOUGH = 25
"""Steps in which a scale that starts at 65,536 has been halved down to one thousandth: no gradient is that large."""

_INSTEAD = "bf16 and fp32 have room for them (--precision); a lower --lr, or loss terms of less weight, may help too."


def check_withheld(planned: Planned, epoch: int, at: Progress, steps: int, warn: Callable[[str], None]) -> None:
    """Stop a stage none of whose updates was applied, and warn at its end where many were withheld.

    Args:
        planned: the stage.
        epoch: that has ended, from 0.
        at: with the stage's withheld updates.
        steps: of an epoch.
        warn: takes the warning.

    Raises:
        RunError: nothing was learnt.
    """
    tried, over = (epoch + 1) * steps, epoch + 1 == planned.epochs
    many = f"{at.withheld} of {tried} updates"
    if at.withheld == tried and (over or tried >= ENOUGH):
        raise RunError(
            f"stage {planned.stage.name}: nothing was learnt, for {many} were withheld: the gradients do not fit fp16. "
            f"{_INSTEAD}"
        )
    if over and at.withheld >= MANY * tried:
        warn(f"stage {planned.stage.name}: {many} were withheld, since their gradients did not fit fp16. {_INSTEAD}")
