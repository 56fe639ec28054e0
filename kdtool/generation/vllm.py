"""A teacher that vLLM runs in this process, without a server (Kwon et al., "Efficient Memory Management for Large
Language Model Serving with PagedAttention", SOSP 2023).

Written to vLLM's documented interface (``LLM.chat``, ``SamplingParams``, ``RequestOutput``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kdtool.errors import InputError, RunError, first_line
from kdtool.generation.request import Answer, Place, Refused, Request

PREFIX = "vllm:"
"""What a name begins with whose model vLLM is to run."""

MOST_LOGPROBS = 1000
LEAST = -1e4
"""A log-probability of less is written as this: JSON has no infinity."""


class InProcess:
    """A model in vLLM's own engine, see ``kdtool.generation.request.Teacher``.

    Args:
        model: a hub name or a folder.

    Raises:
        InputError: vLLM is missing, or cannot open the model.
    """

    at_once, workers = 64, 1

    def __init__(self, model: str):
        if not model:
            raise InputError(f"--teacher {PREFIX} names no model; expected {PREFIX}MODEL, a hub name or a folder.")
        try:
            import vllm
        except ImportError as error:
            raise InputError(
                f"--teacher {PREFIX}{model} needs: pip install 'kdtool[vllm]'. Without it name a server (URL#MODEL), "
                f"or the model itself ({model})."
            ) from error
        self.model, self.name, self._vllm = model, f"{PREFIX}{model}", vllm
        try:
            self._engine = vllm.LLM(model=model, max_logprobs=MOST_LOGPROBS)
        except Exception as error:  # of any of a dozen kinds, from any of a dozen libraries
            raise InputError(f"--teacher {self.name}: vLLM cannot open it ({first_line(error)}).") from error

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers to requests that are sampled alike."""
        began = time.monotonic()
        messages = [[{"role": role, "content": text} for role, text in each.messages] for each in requests]
        sampling = [self._sampling(each) for each in requests]
        try:
            outputs = self._engine.chat(messages, sampling, use_tqdm=False)
        except ValueError as error:  # a prompt that is too long, or that the chat template refuses
            raise Refused(first_line(error)) from error
        except Exception as error:
            raise RunError(f"{self.name}: vLLM stopped ({first_line(error)}).") from error
        seconds = round((time.monotonic() - began) / len(requests), 3)
        return [answer_of(output, self.model, seconds) for output in outputs]

    def _sampling(self, request: Request) -> Any:
        how = request.sampling
        usual = {
            "temperature": how.temperature, "top_p": how.top_p, "max_tokens": how.new_tokens, "seed": request.seed,
            "logprobs": how.logprobs or None,
        }  # fmt: skip
        given = {name: value for name, value in {**usual, **how.extra}.items() if value is not None}
        try:
            return self._vllm.SamplingParams(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"--param: vLLM's SamplingParams refuse it ({first_line(error)}).") from error


def answer_of(output: Any, model: str, seconds: float) -> Answer:
    """Return vLLM's ``RequestOutput`` of one answer as ours; tokens are named by their numbers, which are exact."""
    (found,) = output.outputs
    return Answer(
        found.text.strip(),
        found.finish_reason or "stop",
        len(output.prompt_token_ids or ()),
        len(found.token_ids),
        True,
        model,
        seconds,
        logprobs=[_place(*each) for each in zip(found.token_ids, found.logprobs, strict=True)]
        if found.logprobs
        else None,
    )


def _place(token: int, likely: Any) -> Place:
    """Return a token with its log-probability, and the likeliest tokens; it is among those that vLLM gives."""
    values = {number: round(max(float(each.logprob), LEAST), 5) for number, each in likely.items()}
    ranked = sorted(values, key=lambda number: -values[number])
    return _named(token), values[token], [(_named(number), values[number]) for number in ranked]


def _named(number: int) -> str:
    return f"token_id:{number}"
