"""``kdtool export --push-to-hub`` against a hub on loopback, with the real client: what it takes is what timm opens."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.running import Done, distil

REPO = "me/digits-student"
TOKEN = "hf_of_a_test"
PROGRAM = """
import sys
from kdtool.cli import cli
try:
    cli.main(sys.argv[1:], prog_name="kdtool")
except SystemExit as exited:
    if exited.code:
        raise
import timm, torch
student = timm.create_model("hf-hub:me/digits-student", pretrained=True).eval()
print("top class", int(student(torch.ones(1, 3, 32, 32)).argmax()))
"""


class Hub:
    """A model hub as huggingface_hub talks to it: repositories, uploads by git-lfs, commits, downloads."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}
        self.commits: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self.give(401, b'{"error": "Invalid username or password."}')
                    return
                self.give(200, json.dumps(hub.post(self.path, body)).encode())

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hub.stored[hashlib.sha256(content).hexdigest()] = content
                self.give(200)

            def do_GET(self) -> None:
                repo, _, name = self.path.lstrip("/").partition("/resolve/main/")
                content = hub.repos.get(repo, {}).get(name)
                self.give(404 if content is None else 200, content or b"")

            do_HEAD = do_GET

            def give(self, code: int, content: bytes = b"") -> None:
                self.send_response(code)
                if code == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "a" * 40)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer one of the client's requests."""
        if path.endswith("/commit/main"):
            self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
            return {"commitUrl": f"{self.address}/{REPO}/commit/{'a' * 40}", "commitOid": "a" * 40}
        said = json.loads(body)
        if path == "/api/repos/create":
            name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            self.repos.setdefault(name, {})
            return {"url": f"{self.address}/{name}"}
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "regular" if file["path"].endswith(".json") else "lfs"} for file in said["files"]
            ]  # fmt: skip
            return {"files": files}
        assert path.endswith(".git/info/lfs/objects/batch"), path
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.address}/lfs/{each['oid']}"}}} for each in said["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def commit(self, repo: str, body: bytes) -> None:
        """Put the files that a commit names into its repository."""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "lfsFile":
                self.repos[repo][value["path"]] = self.stored[value["oid"]]
            else:
                self.repos[repo][value["path"]] = b64decode(value["content"])


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return distil(tmp_path_factory.mktemp("hub") / "run", "--student", "test_resnet", "--image-size", "32")


def push(hub: Hub, done: Done, home: Path, token: str) -> subprocess.CompletedProcess[str]:
    """Export and push in a process of its own: huggingface_hub reads its settings when it is imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
           "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # fmt: skip
    words = ["export", str(done.folder), "--to", "program,openvino", "--out", str(home / "out"), "--push-to-hub", REPO]
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], env=clean | own, capture_output=True, text=True)


@pytest.mark.slow
def test_student_and_exports_reach_the_hub_and_timm_opens_them(hub: Hub, done: Done, tmp_path: Path) -> None:
    said = push(hub, done, tmp_path, TOKEN)
    assert said.returncode == 0, said.stderr
    student = {path.name: path.read_bytes() for path in (done.folder / "student").iterdir()}
    exports = {name: (tmp_path / "out" / name).read_bytes() for name in ("student.pt2", "student.xml", "student.bin")}
    assert hub.repos[REPO] == student | exports
    assert len(hub.commits) == 1
    assert f"{hub.address}/{REPO}" in said.stdout
    assert "top class" in said.stdout


@pytest.mark.slow
def test_a_hub_that_refuses_leaves_the_exports_and_says_what_to_do(hub: Hub, done: Done, tmp_path: Path) -> None:
    said = push(hub, done, tmp_path, "hf_of_a_stranger")
    assert said.returncode == 3
    assert "hf auth login" in said.stderr
    assert "Traceback" not in said.stderr
    assert (tmp_path / "out" / "student.pt2").is_file()
    assert not hub.repos
