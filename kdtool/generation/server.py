"""A teacher behind HTTP: any server that speaks OpenAI's chat completions (vLLM, llama.cpp, Ollama, hosted ones)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from kdtool.errors import InputError, RunError, did_you_mean
from kdtool.generation.address import Address
from kdtool.generation.reply import read_answer
from kdtool.generation.request import Answer, Fault, Refused, Request
from kdtool.terminal.words import clean

MOST_BYTES = 64_000_000
"""Of a body: what is larger is no answer."""

_HIDDEN = "[key]"
_PASSING = {408, 409, 425, 429}
"""Refusals that may pass, besides those of 500 and above."""


class Server:
    """A client of one server and model.

    Args:
        address: where it is.
        key: sent as a bearer token; None: none is.
        workers: requests at a time.
        timeout_s: until a request counts as failed, from its first byte to the answer's last.
        any_model: take answers of a model that calls itself something else.

    Raises:
        InputError: httpx is missing, the server does not serve the model, or wants another key.
    """

    at_once = 1

    def __init__(
        self, address: Address, key: str | None, workers: int = 8, timeout_s: float = 600.0, any_model: bool = False
    ):
        try:
            import httpx
        except ImportError as error:
            raise InputError("a teacher behind an address needs: pip install 'kdtool[server]'") from error
        self.address, self.workers, self.any_model = address, workers, any_model
        self._key, self._timeout_s, self._httpx = key, timeout_s, httpx
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 30.0)),
            limits=httpx.Limits(max_connections=workers, max_keepalive_connections=workers),
            trust_env=not address.local,  # what stays on this machine, the key too, goes past no proxy
        )
        self.model = address.model or ""
        self.name = f"{address.url}#{self.model}"

    def connect(self) -> None:
        """Look which models are served, and choose the only one where none was named.

        Raises:
            InputError: there is no such model, or none is named and there are several, or no list.
        """
        try:
            served = self._served()
        except (InputError, Refused, Fault) as error:
            if not self.model:
                why = f"it {error}" if isinstance(error, Fault) else str(error)
                raise InputError(
                    f"--teacher {self.address.url}: the server does not list its models ({why}). Name one, as "
                    "URL#MODEL, or check the address."
                ) from None
            return  # not every server has a list, and who is not there yet is asked again
        if not self.model:
            if len(served) != 1:
                some = ", ".join(served[:10]) or "none"
                raise InputError(
                    f"--teacher {self.address.url}: it serves {len(served)} models ({some}). Name one, as URL#MODEL."
                )
            self.model = served[0]
            self.name = f"{self.address.url}#{self.model}"
        elif served and not any(same_model(self.model, each) for each in served):
            raise InputError(
                f"--teacher {self.address.url}: it does not serve {self.model!r}. {did_you_mean(self.model, served)}"
            )

    def _served(self) -> list[str]:
        found = self._decoded(self._send("GET", "models", None))
        data = found.get("data") if isinstance(found, Mapping) else None
        return [
            clean(each["id"]) for each in data or [] if isinstance(each, Mapping) and isinstance(each.get("id"), str)
        ]

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answer to one request; see ``kdtool.generation.request.Teacher``."""
        (request,) = requests
        began = time.monotonic()
        found = self._decoded(self._send("POST", "chat/completions", body_of(request)))
        answer = read_answer(found, request, time.monotonic() - began)
        if not self.any_model and not same_model(request.model, answer.model):
            raise Fault(f"answered as {clean(answer.model)!r}, not {request.model!r} (--any-model takes that)")
        return [answer]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- HTTP -----------------------------------------------------------------------------------------------------

    def _send(self, verb: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        """Return a response's body, in which the key does not occur."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        until, read = time.monotonic() + self._timeout_s, bytearray()
        try:
            with self._client.stream(verb, f"{self.address.url}/{path}", content=content, headers=headers) as response:
                for piece in response.iter_bytes():
                    read += piece
                    if time.monotonic() > until:
                        raise Fault(f"took more than {self._timeout_s:g} s")
                    if len(read) > MOST_BYTES:
                        raise Fault(f"sent more than {MOST_BYTES:,} bytes")
        except self._httpx.TimeoutException as error:
            raise Fault(f"did not answer within {self._timeout_s:g} s ({type(error).__name__})") from error
        except (self._httpx.TransportError, self._httpx.DecodingError) as error:
            raise Fault(self._without_key(f"{type(error).__name__}: {error}"[:200])) from error
        except self._httpx.InvalidURL as error:
            raise InputError(f"--teacher {self.address.url}: {error}.") from error
        found = bytes(read)
        if self._key:
            found = found.replace(self._key.encode(), _HIDDEN.encode())
        if response.status_code != 200:
            raise self._refusal(response.status_code, response.headers, found)
        return found

    def _decoded(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Fault("sent what is not JSON") from error

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        said = _said(body)
        text = f"status {status}{f': {said}' if said else ''}"
        if status == 429 and "insufficient_quota" in body.decode(errors="replace"):
            return RunError(f"{self.name}: the account has nothing left ({text}).")
        if status in _PASSING or status >= 500:
            return Fault(text, wait_of(headers))
        if status in (401, 403):
            sent = "the key was refused" if self._key else "it wants a key: set KDTOOL_API_KEY, or use --key-env"
            return InputError(f"--teacher {self.address.url}: {sent} ({text}).")
        if status == 402:
            return RunError(f"{self.name}: it wants to be paid first ({text}).")
        if status == 404:
            return InputError(
                f"--teacher {self.name}: there is no such model or address ({text}). Most addresses end in /v1."
            )
        if 300 <= status < 400:
            return InputError(f"--teacher {self.address.url}: the server sends on to elsewhere; name that address.")
        return Refused(text)

    def _without_key(self, text: str) -> str:
        return clean(text.replace(self._key, _HIDDEN) if self._key else text)


def body_of(request: Request) -> dict[str, Any]:
    """Return a request as OpenAI's chat completions have it."""
    how = request.sampling
    usual: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        "temperature": how.temperature,
        "max_tokens": how.new_tokens,
        "seed": request.seed,
    }
    if how.top_p != 1:
        usual["top_p"] = how.top_p
    if how.logprobs:
        usual |= {"logprobs": True, "top_logprobs": how.logprobs}
    return {name: value for name, value in {**usual, **how.extra}.items() if value is not None}


def same_model(asked: str, reported: str) -> bool:
    """Tell whether a server that was asked for one model may call it by the other name.

    Folders, the file's type and case do not matter, and a longer name may be a version of a shorter one.
    """
    one, other = (name.rsplit("/", 1)[-1].lower().removesuffix(".gguf") for name in (asked, reported))
    return bool(one and other) and (one.startswith(other) or other.startswith(one))


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for: a number, or a date; None where it does not say."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        seconds = (at - datetime.now(timezone.utc)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _said(body: bytes) -> str:
    """Return the message of an error's body, cut short; "" without one."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return clean(body[:100].decode(errors="replace"))
    for key in ("error", "message", "detail"):
        if isinstance(found, Mapping) and found.get(key):
            found = found[key]
    text = found if isinstance(found, str) else json.dumps(found)
    return clean(text[:200])
