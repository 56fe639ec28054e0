"""Pretrained weights: a hub on loopback, a hub that hangs, and no hub at all. Each in a process of its own, because
huggingface_hub reads its settings when it is imported."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save

from kdtool.tasks.common.weights import digest
from tests.sampling import sampled

REPO = "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def weights() -> bytes:
    import torch

    torch.manual_seed(4)
    return save(timm.create_model("test_resnet").state_dict(), {"format": "pt"})


@pytest.fixture
def hub(weights: bytes) -> Iterator[tuple[str, list[str]]]:
    """Serve one repository as the Hugging Face hub does; yield its address and the requests that it gets."""
    config = {"architecture": "test_resnet", "num_classes": 1000,
              "pretrained_cfg": {"input_size": [3, 64, 64], "num_classes": 1000, "classifier": "fc"}}  # fmt: skip
    files = {"model.safetensors": weights, "config.json": json.dumps(config).encode()}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            repo, _, name = self.path.lstrip("/").partition("/resolve/main/")
            content = files.get(name) if repo == REPO else None
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound" if repo == REPO else "RepoNotFound")
            content = content or b""
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


PROGRAM = """
import json, sys, time
from kdtool.errors import InputError
from kdtool.tasks.images.models.build import build
from kdtool.tasks.common.weights import digest
out = []
for call in json.loads(sys.argv[1]):
    start = time.monotonic()
    try:
        built = build(**call)
        state = {n: v for n, v in built.module.state_dict().items() if not n.startswith("fc.")}
        out.append({"origin": built.origin, "notes": built.notes, "warnings": built.warnings,
                    "training": built.needs_training, "id": built.weights_id,
                    "body": digest(state), "all": digest(built.module.state_dict())})
    except InputError as error:
        out.append({"error": str(error)})
    out[-1]["seconds"] = time.monotonic() - start
print(json.dumps(out))
"""


def builds(home: Path, calls: list[dict[str, Any]], **environment: str) -> list[dict[str, Any]]:
    """Run ``build`` in a process of its own, with a cache of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "HUGGINGFACE"))}
    clean |= {"HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)],
        env=clean | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: list[dict[str, Any]] = json.loads(done.stdout)
    return result


@pytest.mark.slow
def test_pretrained_weights_come_from_the_hub_and_then_from_the_cache(
    hub: tuple[str, list[str]], weights: bytes, tmp_path: Path
) -> None:
    from safetensors.torch import load

    address, asked = hub
    state = load(weights)
    body = digest({n: v for n, v in state.items() if not n.startswith("fc.")})
    calls: list[dict[str, Any]] = [
        {"name": "test_resnet", "weights": "auto", "num_classes": 5, "image_size": 32},
        {"name": "test_resnet", "weights": "pretrained", "num_classes": 1000, "image_size": 32},
        {"name": "test_resnet", "weights": "auto", "num_classes": 5, "image_size": 32, "prefer_scratch": True},
        {"name": f"hf-hub:{REPO}", "weights": "auto", "num_classes": 5, "prefer_scratch": True},
        {"name": f"hf-hub:{REPO}", "weights": "auto", "num_classes": 1000},
        {"name": f"hf-hub:{REPO}", "weights": "scratch", "num_classes": 5},
    ]
    new_head, fits, scratch, named, named_fits, named_scratch = builds(tmp_path, calls, HF_ENDPOINT=address)
    assert any(request.startswith("GET") for request in asked)
    assert (new_head["origin"], new_head["training"], new_head["body"]) == ("pretrained", True, body)
    assert any("head is for 1000 classes, so it gets a new one for 5" in note for note in new_head["notes"])
    assert (fits["origin"], fits["training"], fits["all"]) == ("pretrained", False, digest(state))
    assert (scratch["origin"], scratch["notes"], scratch["warnings"]) == ("scratch", [], [])
    assert (named["origin"], named["training"], named["body"]) == ("pretrained", True, body)
    assert (named_fits["training"], named_fits["all"]) == (False, digest(state))
    assert named_scratch["origin"] == "scratch"

    asked.clear()
    for environment in ({"HF_ENDPOINT": address}, {"HF_HUB_OFFLINE": "1"}):
        again = builds(tmp_path, [calls[0], calls[3]], **environment)
        assert [each["body"] for each in again] == [body, body]
        assert again[0]["id"] == new_head["id"]
        assert asked == []


@pytest.fixture
def silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("case", sampled(["offline", "refused", "silent"], "silent"))
@pytest.mark.slow
def test_without_a_hub_auto_starts_from_scratch_and_pretrained_fails_within_seconds(
    case: str, silent: str, tmp_path: Path
) -> None:
    environment = {
        "offline": {"HF_HUB_OFFLINE": "1"},
        "refused": {"HF_ENDPOINT": "http://127.0.0.1:9"},
        "silent": {"HF_ENDPOINT": silent},
    }[case]
    common = {"num_classes": 5, "image_size": 32}
    auto, pretrained, named = builds(
        tmp_path,
        [
            {"name": "test_resnet", "weights": "auto", **common},
            {"name": "test_resnet", "weights": "pretrained", **common},
            {"name": f"hf-hub:{REPO}", **common},
        ],
        **environment,
    )
    assert auto["origin"] == "scratch"
    assert "starts from scratch: no pretrained weights could be had" in auto["warnings"][0]
    assert auto["warnings"][0].endswith("student.weights=scratch says so")
    assert "cannot be had" in pretrained["error"]
    assert "use scratch" in pretrained["error"]
    assert "local-dir:FOLDER" in named["error"]
    assert max(each["seconds"] for each in (auto, pretrained, named)) < 60  # a silent server alone would take minutes


def test_a_repository_that_is_not_there_is_told(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    (missing,) = builds(tmp_path, [{"name": "hf-hub:nobody/nothing", "num_classes": 5}], HF_ENDPOINT=hub[0])
    assert "hf-hub:nobody/nothing cannot be loaded" in missing["error"]
