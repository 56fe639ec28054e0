"""A home of its own for each test, so that caches do not meet; trained teachers are shared by the session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return KDTOOL_HOME."""
    shared = Path(os.environ["KDTOOL_HOME"]) / "teachers"
    shared.mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "teachers").symlink_to(shared)
    monkeypatch.setenv("KDTOOL_HOME", str(folder))
    return folder
