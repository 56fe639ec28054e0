"""What a teacher is asked, what it answered, and what can go wrong in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

Messages = tuple[tuple[str, str], ...]
"""A conversation: (role, content) each."""


Place = tuple[Any, float, list[tuple[Any, float]]]
"""A token that was written, its log-probability, and the likeliest tokens there, each with its own. A token is its text
or, where it is none by itself, a list of its bytes."""


@dataclass(frozen=True)
class Sampling:
    """How a teacher writes.

    Attributes:
        temperature: 0 for the likeliest token each time.
        top_p: in (0, 1], the share of the probability that is sampled from.
        new_tokens: of an answer at most.
        seed: samples of other seeds are other answers.
        logprobs: how many of the likeliest tokens are kept at each place, with their log-probabilities; 0: none.
        extra: further values of a request's body, by name, as the server takes them; None leaves a usual one out.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    new_tokens: int = 512
    seed: int = 0
    logprobs: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Request:
    """One question to one teacher.

    Attributes:
        model: the teacher's name.
        messages: what it is asked.
        sampling: how it writes.
        number: which of several answers to the same question, from 0.
    """

    model: str
    messages: Messages
    sampling: Sampling
    number: int = 0

    @cached_property
    def key(self) -> str:
        """The sha256 of all that decides the answer."""
        whole = [self.model, self.messages, asdict(self.sampling), self.number]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @property
    def seed(self) -> int:
        """A seed for the teacher in [0, 2**31), that follows from the request alone."""
        return int(self.key[:8], 16) >> 1

    def estimate(self) -> int:
        """Return about how many tokens the messages have, rather too many: three bytes are one."""
        return sum(8 + len(content.encode(errors="replace")) // 3 for _, content in self.messages)


@dataclass(frozen=True)
class Answer:
    """What a teacher wrote.

    Attributes:
        text: without the white space around it.
        finish: why it ended: "stop", "length" (it was cut), or another word of the teacher's.
        prompt_tokens, completion_tokens: how many were read and written.
        counted: these are the teacher's own counts, not an estimate.
        model: what the teacher calls itself.
        seconds: how long it took.
        reasoning: what it thought before, where it tells that apart.
        logprobs: of each token, as ``Place`` has them.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    counted: bool
    model: str
    seconds: float
    reasoning: str = ""
    logprobs: list[Place] | None = None


class Fault(Exception):
    """A request failed in a way that may pass.

    Args:
        why: the rest of a sentence about the teacher, without a full stop.
        wait: the seconds that it asks to be left alone for, None where it does not say.
    """

    def __init__(self, why: str, wait: float | None = None):
        super().__init__(why)
        self.wait = wait


class Refused(Exception):
    """The teacher will not answer this request, however often it is asked; says why."""


class Teacher(Protocol):
    """Whoever answers.

    Attributes:
        name: for people.
        model: as requests name it.
        at_once: how many requests it takes in one call.
        workers: how many calls it takes at a time, at most.
    """

    name: str
    model: str
    at_once: int
    workers: int

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Return an answer to each of at most ``at_once`` requests; called from several threads.

        Raises:
            Fault: it failed and may not fail again.
            Refused: it will not answer; with several requests, any of them.
            KdtoolError: asking further makes no sense.
        """
        ...
