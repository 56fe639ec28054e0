"""Strangers' pip packages, installed into folders of their own, and kdtool beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def install(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """pip-install a package into a folder of its own and return the environment that sees it."""
    source, site = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(package, source)
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", str(site), str(source)], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def kdtool(environment: dict[str, str], *arguments: object, cwd: Path | None = None, code: int = 0) -> str:
    """Run kdtool in a process of its own, assert how it ends, and return what it prints."""
    command = [sys.executable, "-m", "kdtool", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr
