"""What all tests share: a private cache folder, one thread a process, and the data sets beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder with ``mnist`` and ``cifar100``; skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KDTOOL_TEST_DATA") or beside)
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST and CIFAR-100 at {folder}; set KDTOOL_TEST_DATA to their folder")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _private_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests cache out of the user's folder, and share it among the tests of one session."""
    os.environ["KDTOOL_HOME"] = str(tmp_path_factory.mktemp("kdtool-home"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
