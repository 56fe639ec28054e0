"""A server's reply read: what of it is an answer, and what is nonsense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdtool.generation.request import Answer, Fault, Request

BYTES_A_TOKEN = 4
"""What a token has, about, where the server does not count."""


def read_answer(found: Any, request: Request, seconds: float) -> Answer:
    """Return the answer in a chat completion.

    Args:
        found: the body, as JSON gave it.
        request: what was asked.
        seconds: how long it took.

    Raises:
        Fault: it holds no answer.
    """
    choices = found.get("choices") if isinstance(found, Mapping) else None
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise Fault("sent no choices")
    first = choices[0]
    message = first.get("message") if isinstance(first, Mapping) else None
    if not isinstance(message, Mapping):
        raise Fault("sent a choice without a message")
    text = _text(message.get("content"))
    reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
    finish = first.get("finish_reason")
    if not isinstance(finish, str):
        raise Fault("sent an answer that has not ended")
    model = found.get("model")
    usage = found.get("usage")
    read, written = (_count(usage, f"{name}_tokens") for name in ("prompt", "completion"))
    return Answer(
        text.strip(),
        finish,
        read if read is not None else request.estimate(),
        written if written is not None else -(-len((text + reasoning).encode(errors="replace")) // BYTES_A_TOKEN),
        read is not None and written is not None,
        model if isinstance(model, str) and model else request.model,
        round(seconds, 3),
        reasoning.strip(),
        _logprobs(first.get("logprobs"), request.sampling.logprobs) if request.sampling.logprobs else None,
    )


def _text(content: Any) -> str:
    """Return a message's text, which some servers send in parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [each.get("text") for each in content if isinstance(each, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise Fault("sent a message that is no text")
    return content


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _logprobs(found: Any, most: int) -> list[Any] | None:
    """Return the log-probabilities in short, None where the server gave none that can be read."""
    content = found.get("content") if isinstance(found, Mapping) else None
    if not isinstance(content, list) or not content:
        return None
    places = []
    for each in content:
        own, others = _token(each), each.get("top_logprobs") if isinstance(each, Mapping) else None
        if own is None or not isinstance(others, list):
            return None
        places.append([*own, [token for token in map(_token, others[:most]) if token is not None]])
    return places


def _token(found: Any) -> list[Any] | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("token"), str):
        return None
    value = found.get("logprob")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return [token_of(found["token"], found.get("bytes")), round(max(float(value), -1e4), 5)]


def token_of(text: str, own: Any) -> Any:
    """Return a token as ``kdtool.generation.request.Place`` has it.

    Args:
        text: of it, with other characters in the place of what is no text.
        own: its bytes, as numbers; of no use where they are something else.
    """
    numbers = isinstance(own, list) and all(type(byte) is int and 0 <= byte < 256 for byte in own)
    return own if numbers and own and bytes(own) != text.encode(errors="replace") else text
