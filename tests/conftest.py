"""What all tests share: a private cache folder, one thread a process, and the data sets beside the checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a cache folder that it shares with no other, and return it."""
    home = tmp_path / "home"
    monkeypatch.setenv("KDTOOL_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _no_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the width of the terminal that the tests were started in; pytest-xdist hands it on."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that makes a distribution with methods appear as installed, for this test only.

    ``install("name", {"method": "module:Class"}, module="source code", version="1.0")`` writes what pip would.
    """
    from kdtool import registry

    modules: list[str] = []

    def add(distribution: str, methods: dict[str, str], version: str = "1.0", **sources: str) -> None:
        folder = tmp_path / f"site-{distribution}"
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {target}" for name, target in methods.items()]
        info.joinpath("entry_points.txt").write_text("\n".join(["[kdtool.methods]", *lines]) + "\n")
        for module, source in sources.items():
            folder.joinpath(f"{module}.py").write_text(source)
            modules.append(module)
        monkeypatch.syspath_prepend(str(folder))
        registry.entries.cache_clear()

    yield add
    for module in modules:
        sys.modules.pop(module, None)
    monkeypatch.undo()
    registry.entries.cache_clear()
