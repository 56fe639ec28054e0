"""``kdtool new-method``: a package that installs, passes its own test and ``kdtool check``, as written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtool import registry
from kdtool.errors import InputError
from kdtool.testing.scaffold import new_method
from tests.cli.conftest import Answer, kdtool

__all__ = ["kdtool"]  # the fixture

Kdtool = Callable[..., Answer]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "package"
    made = new_method("my-method", folder)
    assert made.method == "my_method"
    assert sorted(made.files) == sorted(path for path in folder.rglob("*") if path.is_file())
    return folder


@pytest.fixture(scope="module")
def environment(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """pip-install the package into a folder of its own and return the environment that sees it."""
    site = tmp_path_factory.mktemp("site")
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", str(site), str(package)], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow  # following plugins/README.md does the same
def test_its_own_test_passes_as_written(package: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow  # following plugins/README.md does the same
def test_check_passes_once_it_is_installed(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "kdtool", "check", "my_method", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert (report["method"], report["passed"]) == ("my_method", True)
    assert {check["result"] for check in report["checks"]} == {"pass"}


def test_the_method_is_short_and_the_sources_are_clean(package: Path) -> None:
    source = (package / "kdtool_my_method" / "method.py").read_text(encoding="utf-8")
    assert len(source[source.index("class MyMethod") :].splitlines()) <= 35
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "120"]
        done = subprocess.run(ruff, cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_metadata_announces_it(package: Path) -> None:
    project = (package / "pyproject.toml").read_text(encoding="utf-8")
    assert '\nname = "kdtool-my-method"\n' in project
    assert '\n[project.entry-points."kdtool.methods"]\nmy_method = "kdtool_my_method.method:MyMethod"\n' in project


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Method", "lower-case letters"),
        ("2fast", "starts with a letter"),
        ("my method", "lower-case letters"),
        ("../escape", "lower-case letters"),
        ("teacher", "a name of kdtool's own"),
        ("none", "a name of kdtool's own"),
        ("fitnets", r"kdtool .* has a method 'fitnets' already"),
        ("methods", "kdtool_methods is installed already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        new_method(name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exists: choose another folder with --out"):
        new_method("mine", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        new_method("mine", tmp_path / "file" / "package")


@pytest.mark.parametrize("name", ["batch", "true", "class", "option", "a-b2", "exception"])
def test_any_name_gives_sources_that_compile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_method(name, tmp_path / "out")
    for path in made.files:
        if path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), str(path), "exec")
    source = made.folder / f"kdtool_{made.method}" / "method.py"
    spec = importlib.util.spec_from_file_location("kdtool_made", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kdtool_made", module)
    spec.loader.exec_module(module)
    project = (made.folder / "pyproject.toml").read_text(encoding="utf-8")
    (cls,) = re.findall(rf'^{made.method} = ".*:(\w+)"$', project, re.M)
    assert registry.check(getattr(module, cls), made.method, "the test")


def test_the_command_writes_here_and_says_what_is_next(
    kdtool: Kdtool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = kdtool("new-method", "my-method")
    assert answer.code == 0
    assert "kdtool check my_method" in answer.out
    assert (tmp_path / "kdtool-my-method" / "pyproject.toml").is_file()
    again = kdtool("new-method", "my-method")
    assert (again.code, "exists" in again.err) == (2, True)
    report = json.loads(kdtool("new-method", "my-method", "--out", "there", "--json").out)
    assert report["method"] == "my_method"
    assert all((tmp_path / path).is_file() for path in report["files"])
