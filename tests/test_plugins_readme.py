"""plugins/README.md: its code blocks are files and commands, and following them to the letter works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import kdtool.method
from kdtool.testing import check_names

TEXT = (Path(__file__).parents[1] / "plugins" / "README.md").read_text(encoding="utf-8")
METHOD, TASK = TEXT.split("# Your own task\n")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = Path(__file__).with_name("example_task")
FOLDER = "kdtool-soft-hint"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment of its own to install into, which sees the packages of this one, and needs no network."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home)
    (site,) = home.glob("lib/python*/site-packages") if os.name == "posix" else home.glob("Lib/site-packages")
    # Each line is added to the path as a folder of packages, the .pth files of editable installs in it included.
    seen = "".join(f"import site; site.addsitedir({path!r})\n" for path in sys.path if path)
    (site / "seen.pth").write_text(seen, encoding="utf-8")
    bin_ = home / "bin"
    for name in ("pip", "pytest", "kdtool"):
        (bin_ / name).write_text(f'#!/bin/sh\nexec "{bin_ / "python"}" -m {name} "$@"\n', encoding="utf-8")
        (bin_ / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(bin_), os.environ["PATH"]]),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the wrong way round: this switches the isolation off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
def test_following_it_gives_a_published_method(environment: dict[str, str], tmp_path: Path) -> None:
    where = tmp_path
    for language, block in BLOCK.findall(METHOD):
        if language == "python":
            head, source = block.split("\n", 1)
            target = where / head.removeprefix("# file: ")
            assert target.is_file(), f"the README writes {target.name}, which `kdtool new-method` does not"
            target.write_text(source, encoding="utf-8")
            continue
        follow(block, where, environment)
        where = tmp_path / FOLDER
    assert len(list(where.glob("dist/kdtool_soft_hint-*.whl"))) == 1
    assert (where / "first-run" / "result.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
@pytest.mark.slow
def test_following_it_gives_a_task(environment: dict[str, str], tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(EXAMPLE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "tests").mkdir()
    rows = [f"{i % 7},{i % 5},{'high' if i % 7 > 2 else 'low'}" for i in range(1000)]
    (package / "numbers.csv").write_text("\n".join(["a,b,class", *rows]) + "\n", encoding="utf-8")
    for language, block in BLOCK.findall(TASK):
        if language == "python":
            head, source = block.split("\n", 1)
            target = package / head.removeprefix("# file: ")
            assert not target.exists() or target.read_text(encoding="utf-8") == source
            target.write_text(source, encoding="utf-8")
        else:
            follow(block, package, environment)
    assert (package / "first-run" / "report.html").is_file()


def follow(block: str, where: Path, environment: dict[str, str]) -> None:
    """Run a block of commands, and assert that each of them succeeds."""
    command = ["sh", "-e", "-c", block]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_every_block_is_a_file_or_a_command() -> None:
    blocks = BLOCK.findall(TEXT)
    assert {language for language, _ in blocks} == {"sh", "python"}
    assert all(block.startswith("# file: ") for language, block in blocks if language == "python")


def test_the_names_in_its_prose_exist() -> None:
    said = set(re.findall(r"`([a-z_]+)(?: = |\(batch\))", METHOD))
    assert said >= {"batch", "hard_labels", "teachers", "online", "after_step"}
    assert all(hasattr(kdtool.method.Method, name) for name in said - {"api"})
    declared = re.findall(r'expected_failures=\{"([\w-]+)"', TEXT)
    assert declared
    assert set(declared) <= set(check_names())
