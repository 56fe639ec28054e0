"""Twelve short runs and the SHA-256 of what they ship: whether a change of kdtool's structure changed any student.

    python benchmarks/same_bytes.py            # repeat the runs and compare with same_bytes.json
    python benchmarks/same_bytes.py --record   # write same_bytes.json anew
    python benchmarks/same_bytes.py --against COMMIT   # do the runs with another commit's code too, and compare

Digests hold for one machine, thread count and set of versions: these are recorded beside them, and a comparison under
others is refused; ``--against`` needs no record, since it does both sides here. Every run is a process of its own, on
one thread, and all share one fresh KDTOOL_HOME.

What differs from 56e62cf, the last commit before tasks had rooms, is what was mended on purpose since: "fitnets" and
"vit to cnn", whose soft term had a factor T^2 that its paper's code has not.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
RECORD = HERE / "same_bytes.json"

SMALL = ["--device", "cpu", "--epochs", "2", "--batch-size", "32", "--lr", "0.003", "--quiet"]
TAUGHT = [f"teacher.train.{each}" for each in ("epochs=2", "optim.lr=0.003", "batch_size=32")]
FEW = "data.labels_per_class=16"
PAIR = ["--teacher", "test_resnet", "--student", "test_efficientnet"]

RUNS: dict[str, list[str]] = {
    "kd": ["--method", "kd", *PAIR, FEW, "--baseline"],
    "fitnets": ["--method", "fitnets", *PAIR, FEW],
    "crd": ["--method", "crd", *PAIR, FEW],
    "ft": ["--method", "ft", *PAIR, FEW, "ft.paraphrase_epochs=1"],
    "dml": ["--method", "dml", "--teacher", "test_efficientnet", "--student", "test_efficientnet", FEW],
    "byot": ["--method", "byot", "--student", "test_efficientnet", FEW],
    "rkd+kd": ["--method", "rkd+kd", *PAIR, FEW],
    "assistant": ["--method", "kd", "--teacher", "test_resnet", "--assistant", "test_byobnet", "teacher.check=warn",
                  "--student", "test_efficientnet", FEW],
    "mixup, replayed": ["--method", "kd", *PAIR, FEW, "data.mixup=0.2", "--teacher-cache", "data.views=2"],
    "bf16": ["--method", "kd", *PAIR, FEW, "--precision", "bf16"],
    "vit to cnn": ["--method", "fitnets", "--teacher", "test_vit", "--student", "test_efficientnet", FEW],
    "image folder": ["--method", "kd", *PAIR, "--data", "{photos}", "data.color_jitter=0.2", "teacher.check=warn"],
}  # fmt: skip


def write_photos(folder: Path) -> Path:
    """Write 3 classes of 24 pictures of differing sizes; a class is a hue."""
    draw = np.random.Generator(np.random.Philox(0))
    for number in range(3):
        (folder / f"class{number}").mkdir(parents=True)
        for i in range(24):
            height, width = (int(side + draw.integers(0, 9)) for side in (28, 40))
            pixels = draw.integers(0, 120, (height, width, 3))
            pixels[..., number] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{number}" / f"{i}.png")
    return folder


def conditions() -> dict[str, str]:
    """Return what the bytes depend on besides kdtool."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy", "pillow")}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    kernels = torch.backends.cpu.get_cpu_capability()
    about = {"python": platform.python_version(), "processor": processor, "kernels": kernels, "threads": "1"}
    return {**versions, **about}


def digests(names: Sequence[str], code: Path | None = None) -> dict[str, str]:
    """Do the named runs and return the SHA-256 of each file of weights that they ship.

    Args:
        names: of ``RUNS``.
        code: a checkout whose code runs; None: the installed one's.
    """
    found = {}
    with tempfile.TemporaryDirectory() as place:
        photos = write_photos(Path(place) / "photos")
        environment = {**os.environ, "KDTOOL_HOME": f"{place}/home", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if code is not None:
            environment["PYTHONPATH"] = f"{code}{os.pathsep}{code / 'plugins'}"
        for number, name in enumerate(names):
            out, began = Path(place) / f"run-{number}", time.monotonic()
            arguments = [each.format(photos=photos) for each in RUNS[name]]
            arguments += TAUGHT if "--teacher" in arguments else []
            command = [sys.executable, "-m", "kdtool", "run", *SMALL, *arguments, "--out", str(out)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=place)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr or done.stdout}")
            for file in sorted(out.rglob("student/model.safetensors")):
                found[f"{name}: {file.relative_to(out)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return found


def digests_of(commit: str, names: Sequence[str]) -> dict[str, str]:
    """Return the digests of a commit's runs, made here."""
    with tempfile.TemporaryDirectory() as place:
        code = Path(place) / "code"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(code), commit], check=True, cwd=HERE)
        try:
            return digests(names, code)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(code)], check=True, cwd=HERE)


def recorded() -> dict[str, str]:
    """Return the recorded digests.

    Raises:
        SystemExit: they were made under other conditions.
    """
    record = json.loads(RECORD.read_text())
    here = conditions()
    if other := {k: (v, here[k]) for k, v in record["conditions"].items() if here[k] != v}:
        sys.exit(f"recorded under other conditions, so that bytes may differ: {other}")
    found: dict[str, str] = record["sha256"]
    return found


def main() -> None:
    """Record, or repeat and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write same_bytes.json")
    parser.add_argument("--against", metavar="COMMIT", help="compare with what this commit's code makes here")
    parser.add_argument("--only", action="append", choices=list(RUNS), help="of the runs these; repeatable")
    given = parser.parse_args()
    if given.record:
        RECORD.write_text(json.dumps({"conditions": conditions(), "sha256": digests(list(RUNS))}, indent=2) + "\n")
        return
    names = given.only or list(RUNS)
    expected = digests_of(given.against, names) if given.against else recorded()
    found = digests(names)
    wrong = [name for name, digest in found.items() if expected.get(name) != digest]
    print("\n".join([f"{'differs' if name in wrong else 'equal'}: {name}" for name in found]))
    sys.exit(f"{len(wrong)} of {len(found)} differ" if wrong else 0)


if __name__ == "__main__":
    main()
