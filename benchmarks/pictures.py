"""The pictures of README.md: a run as its terminal shows it, docs/run.svg, and the run's report, docs/report.png.

    python benchmarks/pictures.py [FOLDER]

The run, and the teacher that it trains, go into FOLDER (default: runs/pictures), which must be new. Needs tmux,
Chromium and kdtool[report].
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMAND = (
    "kdtool run --method fitnets --teacher resnet18 --student resnet10t --baseline "
    "--epochs 30 --batch-size 50 data.labels_per_class=10"
)
COLUMNS, LINES = 110, 60
PAGE = (1400, 1285)
"""Pixels of the report that are shown, from its top."""


def main() -> None:
    """Run the command, and make both pictures of it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pictures").resolve()
    folder.mkdir(parents=True)
    os.environ["KDTOOL_HOME"] = str(folder / "home")
    draw(in_terminal(folder), DOCS / "run.svg")
    (run,) = (folder / "runs").iterdir()
    kdtool("report", str(run.relative_to(folder)), cwd=folder)
    photograph(run / "report.html", DOCS / "report.png")


def kdtool(*arguments: str, cwd: Path) -> None:
    """Run kdtool beside this Python."""
    subprocess.run([sys.executable, "-m", "kdtool", *arguments], cwd=cwd, check=True)


def in_terminal(folder: Path) -> str:
    """Run the command in a terminal of its own; return what stands on the screen in the end, colours and all."""
    ended = folder / "ended"
    home = os.environ["KDTOOL_HOME"]  # a tmux server that runs already has an environment of its own
    script = f"KDTOOL_HOME={home} {sys.executable} -m {COMMAND}; touch {ended}; sleep 600"
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    subprocess.run(["tmux", "new-session", "-d", "-s", "picture", *size, "-c", str(folder), script], check=True)
    try:
        while not ended.exists():
            time.sleep(1)
        capture = ["tmux", "capture-pane", "-ep", "-t", "picture"]
        return subprocess.run(capture, capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run(["tmux", "kill-session", "-t", "picture"], check=True)


def draw(screen: str, to: Path) -> None:
    """Draw a terminal's text as SVG, under the command that led to it."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text(f"$ {COMMAND}", style="bold"))
    console.print(Text.from_ansi(screen.rstrip()))
    # Fonts that a server would have to send are left out: the picture fetches nothing.
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    to.write_text(console.export_svg(title="kdtool run", code_format=form, unique_id="kdtool"), encoding="utf-8")


def photograph(page: Path, to: Path) -> None:
    """Take a picture of the top of a page, in few enough colours to be small."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium here")
    taking = [f"--screenshot={to}", f"--window-size={PAGE[0]},{PAGE[1]}", "--virtual-time-budget=10000"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    subprocess.run([browser, *flags, *taking, page.as_uri()], check=True, capture_output=True)
    Image.open(to).convert("RGB").quantize(128).save(to, optimize=True)


if __name__ == "__main__":
    main()
