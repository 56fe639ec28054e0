"""What a step costs: runs ``kdtool bench`` and writes the tables of BENCHMARKS.md from what it found.

    python benchmarks/speed.py [--run [BENCH...]] [--device cpu]

The findings are kept as JSON in ``benchmarks/speed/``, one file a bench and device; the tables are made of these files
alone, so a number cannot drift from its bench. ``--run`` measures anew, which wants an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import marked  # beside this file

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- speed: made by benchmarks/speed.py -->", "<!-- end of speed -->"

PAIR = "--teacher resnet32x4 --student resnet8x4"
LARGER = "--teacher resnet50 --student resnet18 --image-size 160 --batch-size 32 --precision bf16 --pairs 5 --steps 1"
BENCHES = {
    "kd": f"{PAIR} --method kd",
    "fitnets": f"{PAIR} --method fitnets",
    "methods": f"{PAIR} --methods all --pairs 7 --steps 1",
    "text": "--task text --teacher transformer-mini --student bilstm --method kd",
    "larger": LARGER,
    "larger-glibc": LARGER,
}
ENVIRONMENTS = {"larger-glibc": {"MALLOC_PERTURB_": "0"}}
"""What a bench sets: here nothing new, which leaves glibc as it is, giving a step's memory back to the system."""

TITLES = {
    "rows": "the engine beside the floor",
    "features": "one feature after the other, in a bare loop",
    "parts": "the parts of a step alone",
    "methods": "each method's last stage beside the default method's, fp32",
}
TEXT = """## Speed

The floor is a bare loop on ready batches with the same layout, folding, precision and replay. Both take turns;
shares are medians of the pairs, with 95% sign-test intervals. Images are scikit-learn's digits, where nothing is said
32x32 in batches of 64; sentences are those of the Python documentation. The two benches of the larger pair differ in
whether a step's memory is kept for the next, as it is by default, or goes back to the system (`MALLOC_...`).
"""


def measure(name: str, device: str) -> None:
    """Run a bench and keep what it found."""
    command = [sys.executable, "-m", "kdtool", "bench", *BENCHES[name].split(), "--device", device, "--json"]
    if device.startswith("cuda"):
        command.append("train.compile=default")
    settings = ENVIRONMENTS.get(name, {})
    print(*command[2:], flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **settings})
    found = json.loads(done.stdout)
    shown = [*(f"{key}={value}" for key, value in settings.items()), "kdtool", *command[3:-1]]
    found["command"] = " ".join(shown).replace(" --json", "")
    folder = HERE / "speed"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-{device.split(':')[0]}.json").write_text(json.dumps(found, indent=1) + "\n")


def tables(found: dict[str, Any]) -> list[str]:
    """Return a bench's tables in Markdown."""
    machine = found["machine"]
    where = f"{machine['device']}, {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"
    lines = [f"`{found['command']}`; {where}.", ""]
    for key, title in TITLES.items():
        rows = found.get(key)
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines += [f"{title[0].upper()}{title[1:]}:", "", f"| {' | '.join(n.replace('_', ' ') for n in names)} |"]
            lines += ["|" + " --- |" * len(names)]
            lines += [f"| {' | '.join(cell(row.get(name)) for name in names)} |" for row in rows] + [""]
    return lines


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, list):
        return (" to " if value and isinstance(value[0], float) else ", ").join(cell(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, where asked to, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", nargs="*", metavar="BENCH", help=f"measure anew: {', '.join(BENCHES)}; none named: all"
    )
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    for name in () if args.run is None else args.run or BENCHES:
        measure(name, args.device)
    files = sorted((HERE / "speed").glob("*.json"))
    body = "\n".join([TEXT, *(line for file in files for line in tables(json.loads(file.read_text())))])
    marked.write(BEGIN, END, body)


if __name__ == "__main__":
    main()
