"""A server that others wrote, `transformers serve`, gives the text that the same network gives at home."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("transformers")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("accelerate")

import kdtool
from tests.generation.files import lines, samples
from tests.tasks.language.small import saved, tokens

pytestmark = pytest.mark.slow

SERVE = (
    "import sys\nfrom transformers.cli.transformers import main\nsys.argv = ['transformers', *sys.argv[1:]]\nmain()\n"
)


@pytest.fixture
def address() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments], env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        until = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < until:
            try:
                httpx.get(f"{url}/models", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        if server.poll() is not None:
            pytest.skip("this version of transformers does not serve")
        yield url
    finally:
        server.terminate()
        server.wait()


def test_a_real_server_and_the_network_itself_say_the_same(address: str, tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", tokens(), seed=2, initializer_range=1.0)
    asked = ("How is rain?", "How are sun and snow?", "How is fire?")
    data = lines(tmp_path / "q.jsonl", [{"question": each} for each in asked])
    for name, out in ((f"{address}#{teacher}", "served"), (str(teacher), "at home")):
        card = kdtool.generate(name, data, tmp_path / out, new_tokens=12, keep_cut=True, device="cpu", timeout_s=120.0)
        assert card["requests"]["answered"] == 3
        assert card["tokens"]["counted"]
    assert len(samples(tmp_path / "served")) == 3
    assert samples(tmp_path / "served") == samples(tmp_path / "at home")
