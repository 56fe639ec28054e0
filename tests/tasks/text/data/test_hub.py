"""Data sets of Hugging Face ``datasets``, of a local folder or a hub on loopback: no test reaches a network."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kdtool.errors import InputError
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.options import Data
from tests.tasks.text.data.files import ROWS, write

NAMES = ["worse", "better"]


def opened(root: Path, name: str = "some/reviews", **keys: Any) -> TextData:
    return open_data(Data(name=f"hf/{name}", root=str(root), **keys))


def save(root: Path, **splits: list[tuple[str, int]]) -> None:
    """Save a data set as ``datasets`` does, with its class names."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    made = {
        name: datasets.Dataset.from_dict(
            {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}, features=features
        )
        for name, rows in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(root / "some" / "reviews"))


def test_a_saved_data_set_brings_splits_and_class_names(tmp_path: Path) -> None:
    rows = [(text, int(label)) for text, label in ROWS]
    save(tmp_path, train=rows, validation=[("chosen by", 1)], test=[("unlabelled", -1)])
    data = opened(tmp_path)
    assert data.class_names == NAMES
    assert len(data.train) + len(data.val or []) == 40
    assert [data.texts[row] for row in data.test.rows.tolist()] == ["chosen by"]
    assert data.test.labels.tolist() == [1]
    assert data.fingerprint == opened(tmp_path).fingerprint
    with pytest.raises(InputError, match=r"hf/some/reviews: there is no split 'training'.*Did you mean 'train'"):
        opened(tmp_path, train_split="training")


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    save(tmp_path, train=[*((text, int(label)) for text, label in ROWS), ("  ", 1)])
    with pytest.raises(InputError, match=r"hf/some/reviews, split train, row 41: its 'sentence' is empty"):
        opened(tmp_path)
    assert len(opened(tmp_path, max_bad=0.1).texts) == 40


def test_a_cloned_data_set_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "root" / "reviews" / "train.csv")
    write(tmp_path / "root" / "reviews" / "test.csv", [("tested on", "0")])
    data = opened(tmp_path / "root", "reviews")
    assert data.class_names == ["0", "1"]
    assert [data.texts[row] for row in data.test.rows.tolist()] == ["tested on"]


COMMIT = "a" * 40
OPENS = """
import sys
from kdtool.errors import InputError
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.options import Data
try:
    data = open_data(Data(name=sys.argv[1]))
    print(data.class_names, [data.texts[row] for row in data.test.rows.tolist()])
except InputError as refusal:
    print("refused:", refusal)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Serve ``some/reviews`` as a hub does, to the real client; yield the address."""
    files = {
        "train.csv": write(tmp_path / "served" / "train.csv").read_bytes(),
        "test.csv": write(tmp_path / "served" / "test.csv", [("tested on", "0")]).read_bytes(),
    }
    repo = "/api/datasets/some/reviews"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            name = path.rpartition("/")[2]
            if path in (repo, f"{repo}/revision/main", f"{repo}/revision/{COMMIT}"):
                self.give(json.dumps({"id": "some/reviews", "sha": COMMIT, "siblings": [], "tags": []}).encode())
            elif path.startswith(f"{repo}/tree/") and name in (COMMIT, "main"):
                listed = [{"type": "file", "path": each, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                          for each, content in files.items()]  # fmt: skip
                self.give(json.dumps(listed).encode())
            elif path.startswith("/datasets/some/reviews/resolve/") and name in files:
                self.give(files[name])
            else:
                self.give(None, "EntryNotFound" if "some/reviews" in path else "RepoNotFound")

        do_HEAD = do_GET

        def give(self, content: bytes | None, why: str = "") -> None:
            self.send_response(404 if content is None else 200)
            if why:
                self.send_header("X-Error-Code", why)
            self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_data_set_comes_from_a_hub(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}

    def said(name: str, **more: str) -> str:
        # Another process, since datasets reads its environment once.
        words = [sys.executable, "-c", OPENS, name]
        done = subprocess.run(words, env={**environment, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    opens = "['0', '1'] ['tested on']\n"
    assert said("hf/some/reviews") == opens
    assert said("hf/some/reviews", HF_HUB_OFFLINE="1") == opens  # it is kept
    assert said("hf/some/other").startswith("refused: --data hf/some/other: datasets cannot open it")


@pytest.mark.parametrize("name", ["no/such-reviews", "no/such:part", "", "..", ":part", "../x y"])
def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^--data hf/.*(datasets cannot open it|the name of a data set)") as refusal:
        opened(tmp_path, name)
    assert "\n" not in str(refusal.value)


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"hf/some/reviews needs .*'kdtool\[hfds\]'"):
        opened(tmp_path)
