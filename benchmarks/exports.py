"""Students that are shipped: distils them on the digits, exports each and writes the table of BENCHMARKS.md.

    python benchmarks/exports.py [--run [STUDENT...]]

The findings of ``kdtool export`` are kept as JSON in ``benchmarks/exports/``, one file a student; the table is made of
these files alone, so a number cannot drift from its export. ``--run`` distils what is not distilled yet, into
``runs/exports/`` of the present folder, and exports anew on one thread, which wants an idle core.
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
BEGIN, END = "<!-- exports: made by benchmarks/exports.py -->", "<!-- end of exports -->"

COMMON = "--method kd --image-size 32 --device cpu --teacher resnet18"
REPLAYED = "teacher.train.epochs=6 --teacher-cache data.views=4"
STUDENTS = {
    "resnet18": f"{REPLAYED} --epochs 5",
    # Patches of 16 pixels would leave four tokens of an image of 32.
    "vit_tiny": f"{REPLAYED} student.model_args.patch_size=8 --epochs 40 --lr 0.0005",
    "mobilenetv3": f"{REPLAYED} --epochs 16 --lr 0.002 train.batch_size=32",
    "efficientnet_lite0": f"{REPLAYED} --epochs 16 --lr 0.002 train.batch_size=32",
}
"""What follows ``kdtool run`` for each student."""
FORMATS = "program,onnx,onnx-fp16,onnx-int8"
TOLERANCE = {"resnet18": 1, "vit_tiny": 1}
"""Points of top-1 that these may lose; the others: the defaults of ``kdtool export``."""
TEXT = """## Exports

Students of scikit-learn's digits at 32x32 pixels, distilled from a resnet18, in the formats of `kdtool export`, each
loaded back and compared with its student on the {images} test images. "Difference" is the largest, relative to the
largest absolute logit; "times faster" compares medians with the PyTorch student's, taken in turns, at batch 1 and 32.
vit_tiny has patches of 8 pixels; one that a shorter recipe brought to 40.11 % only lost 1.67 points in int8, and was
refused at 1. {where}.
"""
REFUSED = 3
"""kdtool's exit code where an export was not kept."""


def folder(student: str) -> Path:
    """Return a student's run."""
    return Path("runs/exports") / student


def commands(student: str) -> tuple[list[str], list[str]]:
    """Return the arguments of the distillation and of the export."""
    run = ["run", *COMMON.split(), "--student", student, *STUDENTS[student].split(), "--out", str(folder(student))]
    more = ["--tolerance", str(TOLERANCE[student])] if student in TOLERANCE else []
    return run, ["export", str(folder(student)), "--to", FORMATS, *more]


def measure(student: str) -> None:
    """Distil a student unless it is, export it, and keep what was found."""
    run, export = commands(student)
    if folder(student).exists():
        kdtool("run", "--resume", str(folder(student)))
    else:
        kdtool(*run)
    kdtool(*export)
    result = json.loads((folder(student) / "result.json").read_text())
    found = json.loads((folder(student) / "export" / "export.json").read_text())
    found["commands"] = [" ".join(["kdtool", *each]) for each in (run, export)]
    found["teacher"] = result["test"]["teacher"]["top1"]
    found["seconds"] = result["seconds"]["total"]
    (HERE / "exports").mkdir(exist_ok=True)
    (HERE / "exports" / f"{student}.json").write_text(json.dumps(found, indent=1) + "\n")


def kdtool(*arguments: str) -> None:
    """Run a command of kdtool's on one thread; an export that is refused is a finding, not a failure."""
    print("kdtool", *arguments, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = subprocess.run([sys.executable, "-m", "kdtool", *arguments], env=environment).returncode
    if code and (arguments[0], code) != ("export", REFUSED):
        raise SystemExit(code)


def rows(student: str, found: dict[str, Any]) -> list[str]:
    """Return a student's lines of the table, one a format."""
    lines = []
    for form, each in found["exports"].items():
        kept = each["accepted"]
        top1 = f"{100 * each['top1']:.2f} ({0.0 - each['lost_points']:+.2f})"
        lines.append(
            f"| {student} | {100 * found['teacher']:.2f} | {form} | {top1} "
            f"| {each['relative_difference']:.1e} | {each['bytes'] / 1e6:.1f} | {'yes' if kept else 'refused'} "
            f"| {', '.join(times_faster(found['speed'], form)) if kept else ''} |"
        )
    return lines


def times_faster(speed: dict[str, Any], form: str) -> list[str]:
    """Return by how much a format is faster than the student, by batch size."""
    pairs = zip(speed["student"], speed[form], strict=True)
    return [f"{student['median_ms'] / own['median_ms']:.1f}" for student, own in pairs]


def page(every: dict[str, dict[str, Any]]) -> str:
    """Return the section in Markdown."""
    first = next(iter(every.values()))
    machine = first["machine"]
    where = f"On: {machine['processor']}, {machine['threads']} thread, torch {machine['torch']}"
    text = TEXT.format(images=first["test"]["images"], where=where)
    head = "| student | of a teacher with | format | top-1 (points gained) | difference | MB | kept | times faster |"
    lines = [text, head, "|" + " --- |" * 8, *(line for name, found in every.items() for line in rows(name, found)), ""]
    tried = {name: found["exports"]["onnx-int8"]["tried"] for name, found in every.items()}
    lines += [
        "int8's setting is the first of five that changes few enough answers on the validation split:",
        "; ".join(f"{name} {min(each, key=lambda one: one['changed'])['setting']}" for name, each in tried.items())
        + ".",
        "",
        "By, student for student:",
        "",
        *(f"    {command}" for found in every.values() for command in found["commands"]),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, where asked to, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", nargs="*", metavar="STUDENT", help=f"measure anew: {', '.join(STUDENTS)}; none named: all"
    )
    args = parser.parse_args()
    for student in () if args.run is None else args.run or STUDENTS:
        measure(student)
    files = {student: HERE / "exports" / f"{student}.json" for student in STUDENTS}
    body = page({student: json.loads(file.read_text()) for student, file in files.items() if file.exists()})
    marked.write(BEGIN, END, f"{body}\n")


if __name__ == "__main__":
    main()
