"""``make demo`` on small networks: it ends with the path of a page that opens."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.browser import needs_chromium, opened
from tests.running import PAIR, SMALL

pytest.importorskip("plotly")
MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@needs_chromium
def test_the_demo_ends_with_the_path_of_a_page_that_opens(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "installed"):  # what make takes for a finished setup
        (tmp_path / name).touch()
    small = " ".join([*PAIR, "--method kd", *SMALL])
    given = [f"STAMP={tmp_path / 'installed'}", f"BIN={Path(sys.executable).parent}", f"DEMO={small}"]
    done = subprocess.run(
        ["make", "--no-print-directory", "-f", MAKEFILE, "demo", *given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = tmp_path / done.stdout.splitlines()[-1].removeprefix("wrote ")
    assert page == tmp_path / "runs" / "test_resnet-test_efficientnet-kd-1" / "report.html"
    dom, said = opened(page, 1400, tmp_path)
    assert "CONSOLE" not in said, said
    assert "Embedding of the student" in dom
