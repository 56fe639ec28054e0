"""A small server that speaks OpenAI's chat completions over real HTTP, and misbehaves by plan."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny-teacher"
FAULTS = ("slow", "429", "500", "half", "model", "empty", "dropped", "junk", "hung", "unended", "forever")
"""What a server may do in place of an answer, besides "no usage", which is one."""


def says(messages: list[dict[str, str]], number: int) -> str:
    """Return what the server answers: a function of what it is asked."""
    asked = messages[-1]["content"]
    return f"It is {hashlib.sha256(asked.encode()).hexdigest()[:8]}, and that was question {len(asked)}-{number % 97}."


class Plan:
    """What the server does with each request, and what it saw.

    Attributes:
        faults: by how often a question was asked before, what goes wrong: a function of (question, times) -> fault.
        answer: of (messages, seed) -> text.
        choice: of a request's body, what stands in the answer's list of choices; None: the answer's text.
        seen: how often each question was asked with each seed.
        answered: how often each of these got a whole answer.
        headers: of the last request.
        bodies: of all requests.
    """

    def __init__(
        self,
        faults: Callable[[str, int], str] = lambda question, times: "",
        answer: Callable[[list[dict[str, str]], int], str] = says,
    ):
        self.faults, self.answer = faults, answer
        self.seen: Counter[tuple[str, int]] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.headers: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.dies_after: int | None = None
        self.models = [MODEL]
        self.choice: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.at_once = self.most_at_once = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Plan

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"data": [{"id": name} for name in self.plan.models]})
        else:
            self._send(404, {"error": {"message": f"there is nothing at {self.path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        plan, key = self.plan, (body["messages"][-1]["content"], body.get("seed", 0))
        with plan.lock:
            fault = plan.faults(key[0], plan.seen[key])
            plan.seen[key] += 1
            plan.headers = dict(self.headers)
            plan.bodies.append(body)
            plan.at_once += 1
            plan.most_at_once = max(plan.most_at_once, plan.at_once)
            if plan.dies_after is not None and sum(plan.seen.values()) > plan.dies_after:
                os._exit(9)
        try:
            self._answer(body, fault, key)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with plan.lock:
                plan.at_once -= 1

    def _answer(self, body: dict[str, Any], fault: str, key: tuple[str, int]) -> None:
        text = "" if self.plan.choice else self.plan.answer(body["messages"], key[1])
        whole: dict[str, Any] = {
            "id": "x",
            "model": "another" if fault == "model" else body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 11},
        }
        if self.plan.choice:
            with self.plan.lock:
                whole["choices"] = [self.plan.choice(body)]
        elif body.get("logprobs"):
            likely = [{"token": f"t{i}", "logprob": -1.0 - i} for i in range(body["top_logprobs"])]
            whole["choices"][0]["logprobs"] = {"content": [{"token": "t0", "logprob": -1.0, "top_logprobs": likely}]}
        if fault == "slow":
            time.sleep(0.05)
        elif fault == "hung":
            time.sleep(3)
        elif fault == "forever":  # a byte now and then, so that no single read takes long
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        elif fault == "429":
            return self._send(429, {"error": {"message": "too many"}}, {"Retry-After": "0.05"})
        elif fault == "500":
            return self._send(500, {"error": {"message": "of mine"}})
        elif fault == "dropped":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        elif fault == "half":
            data = json.dumps(whole).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        elif fault == "junk":
            return self._send(200, b"<html>gateway</html>")
        elif fault == "empty":
            whole["choices"] = []
        elif fault == "unended":
            whole["choices"][0]["finish_reason"] = None
        elif fault == "no usage":
            del whole["usage"]
        elif fault == "cut":
            whole["choices"][0]["finish_reason"] = "length"
        elif fault == "echo":  # as careless servers do
            return self._send(500, {"error": {"message": f"headers were {dict(self.headers)}"}})
        elif fault == "leak":
            whole["choices"][0]["message"]["content"] = f"You sent {self.headers.get('Authorization')}."
        elif fault.isdigit():
            return self._send(int(fault), {"error": {"message": f"status {fault}"}})
        if fault not in FAULTS or fault == "slow":
            with self.plan.lock:
                self.plan.answered[key] += 1
        return self._send(200, whole)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Clients are killed in these tests."""


@contextmanager
def serve(plan: Plan, port: int = 0) -> Iterator[str]:
    """Serve on loopback and yield the address with the model."""
    handler = type("Handler", (_Handler,), {"plan": plan})
    with _Listening(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1#{MODEL}"
        server.shutdown()
        thread.join()
