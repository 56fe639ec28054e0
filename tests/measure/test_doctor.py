"""kdtool doctor: what it says of machines that are well, and of packages broken in the ways that people meet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtool.measure import health as module
from kdtool.measure import probe
from kdtool.measure.health import FAULT, NOTE, OK, Check, doctor, healthy
from tests.running import call

NMS = "raise RuntimeError('operator torchvision::nms does not exist')"
TORCH = "__version__ = '2.9.0'\nclass version:\n    cuda = hip = None\ndef from_numpy(x): return x\n"
Package = Callable[..., None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Return a function that puts a package before the installed one of its name."""

    def write(name: str, code: str, version: str, requires: str = "", cuda: str = "None") -> None:
        folder = tmp_path / "site"
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
        (folder / name / "version.py").write_text(f"cuda: Optional[str] = {cuda}\n")
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        monkeypatch.syspath_prepend(str(folder))

    return write


def found(checks: list[Check], name: str, state: str = FAULT) -> Check:
    mine = [check for check in checks if check.name == name and check.state == state]
    assert len(mine) == 1, checks
    return mine[0]


def test_a_machine_that_is_well() -> None:
    done = call("doctor", "--json")
    assert done.code == 0, done.out
    document = json.loads(done.out)
    assert document["healthy"]
    names = {check["name"]: check for check in document["checks"]}
    assert {"python", "torch", "torchvision", "timm", "cpu", "memory", "KDTOOL_HOME", "runs", "plugins"} <= set(names)
    assert "bf16" in names["cpu"]["found"]
    assert "free" in names["KDTOOL_HOME"]["found"]
    assert all(check["fix"] for check in document["checks"] if check["state"] == FAULT)


def test_torch_that_cannot_be_imported(package: Package) -> None:
    package("torch", "raise OSError('libcudart.so.13: cannot open shared object file')", "2.9.0")
    done = call("doctor")
    assert done.code == 3
    assert "libcudart" in done.out
    assert "--force-reinstall torch" in done.out
    assert "Traceback" not in done.out + done.err


def test_torch_that_is_missing(package: Package) -> None:
    package("torch", "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')", "2.9.0")
    assert found(doctor(), "torch").fix == "pip install torch"


def test_torch_that_ends_the_process(package: Package) -> None:
    package("torch", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "2.9.0")
    checks = doctor()
    assert "SIGSEGV" in found(checks, "torch").found
    assert "before it failed" in found(checks, "timm").found
    assert not healthy(checks)


def test_torch_that_never_answers(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 1)
    package("torch", "import time; time.sleep(60)", "2.9.0")
    assert "did not answer" in found(doctor(), "torch").found


def test_torchvision_of_another_torch_is_explained(package: Package) -> None:
    package("torch", TORCH, "2.9.0")
    package("torchvision", NMS, "0.27.0", requires="torch (==2.12.0)")
    checks = doctor()
    assert "operator torchvision::nms does not exist" in found(checks, "torchvision").found
    assert "built for another torch" in str(found(checks, "torchvision").fix)
    assert "needs torch (==2.12.0)" in found(checks, "torch and torchvision").found


@pytest.mark.parametrize(("ours", "theirs"), [("2.9.0+cpu", "0.24.0+cu130"), ("2.9.0", "0.24.0")])
def test_a_cpu_torch_beside_a_cuda_torchvision(package: Package, ours: str, theirs: str) -> None:
    package("torch", TORCH, ours)
    package("torchvision", NMS, theirs, cuda="'13000'")
    check = found(doctor(), "torch and torchvision")
    assert "a CPU build" in check.found
    assert "a CUDA build" in check.found
    assert "torch torchvision" in str(check.fix)


def test_an_old_package_is_named_with_what_is_needed(package: Package) -> None:
    package("torch", "raise ImportError", "2.1.0")
    package("timm", "raise ImportError", "0.9.16")
    faults = [check.found for check in doctor() if check.state == FAULT]
    assert any("0.9.16, but kdtool needs >=1.0.26" in text for text in faults)
    assert any("2.1.0, but kdtool needs >=2.6" in text for text in faults)


def test_places_that_cannot_be_written_or_are_full(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("torch", "raise ImportError", "2.9.0")
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDTOOL_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(module, "DISK_BYTES", 1e18)
    checks = doctor()
    assert "set KDTOOL_HOME" in str(found(checks, "KDTOOL_HOME").fix)
    assert "free some disk" in str(found(checks, "Hugging Face cache").fix)
    assert os.listdir(tmp_path) == ["file", "site"] or sorted(os.listdir(tmp_path)) == ["file", "site"]


def test_extras_name_what_they_lack(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    package("torch", "raise ImportError", "2.9.0")
    monkeypatch.setattr(module, "_required", lambda: [("no-such-package", ">=1", "more"), ("click", ">=8", "more")])
    check = found(doctor(), "extra more", NOTE)
    assert check.found == "lacks no-such-package"
    assert "kdtool[more]" in str(check.fix)


def test_a_broken_plugin_and_the_limit_on_plugins(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bad-plugin", {"m_bad": "bad_plugin:X"}, bad_plugin="raise RuntimeError('half written')")
    steps = {"plugins": {"found": probe.plugins()}}
    checks = list(module._plugins(steps))
    assert "half written" in found(checks, "method m_bad").found
    assert "bad-plugin" in str(found(checks, "method m_bad").fix)
    monkeypatch.setenv("KDTOOL_PLUGINS", "kdtool")
    from kdtool import registry

    registry.entries.cache_clear()
    steps = {"plugins": {"found": probe.plugins()}}
    checks = list(module._plugins(steps))
    assert found(checks, "KDTOOL_PLUGINS", NOTE)
    assert healthy(checks)
    assert found(checks, "plugins", OK)
