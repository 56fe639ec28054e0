"""A teacher that reads the samples in its own tokens, and speaks where these begin as the student's do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdtool.engine.rows import Deferred
from kdtool.tasks.common.adapted import Unchanged


class Translated(Unchanged):
    """A tapped network that takes the student's inputs, reads its own beside them, and has a row for each of its rows.

    Rows where none of its tokens begins are filled with zeros, in the place of hidden states, and are for nobody to
    read: see ``kdtool.engine.job.Loaded.taught``.

    Args:
        network: takes its own tokenizer's numbers.
        key: under which its inputs stand beside the student's: ``ids``, ``next`` and ``lengths``, and of the student's
            ``met`` (B, L) bool, where the token that follows is learnt and begins where one of its own does.
    """

    def __init__(self, network: Any, key: str):
        super().__init__(network)
        self.key = key

    def forward(self, inputs: dict[str, Any]) -> tuple[Deferred, dict[str, Any]]:
        """Return deferred (R, V') logits and, per role, (R, D) features or a list of them.

        Inputs without its own beside them are read as they are: batches of its own, and the noise of dry forwards.
        """
        own = inputs.get(self.key)
        if own is None:
            found: tuple[Deferred, dict[str, Any]] = self.network(
                {**inputs, "ids": inputs["ids"] % self.network.classes}
            )
            return found
        logits, taps = self.network({name: own[name] for name in ("ids", "next", "lengths")})
        at_R = own["met"][inputs["next"]]

        def spread(rows: Tensor) -> Tensor:
            return rows.new_zeros(len(at_R), *rows.shape[1:]).index_copy(0, at_R.nonzero().squeeze(1), rows)

        every = {role: [spread(each) for each in tap] if isinstance(tap, list) else spread(tap)
                 for role, tap in taps.items()}  # fmt: skip
        return logits.of(spread(logits.hidden_RD)), every
