"""Every method against hard labels alone: digits, ten labels a class, five seeds, the same budget of student steps.

    python benchmarks/methods_table.py [--jobs 2] [--seeds 5] [--out runs/methods-table] [method ...]

Runs that are finished are not run again. Rows of methods that are named (default: all) replace those between the
markers in README.md; a method that was never run has a row that says so.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- methods table: made by benchmarks/methods_table.py -->", "<!-- end of methods table -->"

COMMON: dict[str, Any] = {
    "teacher": {"model": "resnet18", "train": {"epochs": 10}},
    "student": {"model": "resnet10t"},
    # The last epoch is the result: ten labels a class leave none to choose by.
    "data": {"labels_per_class": 10, "val_fraction": 0.0},
    "train": {"epochs": 30, "batch_size": 50},
    # An epoch is two steps; a checkpoint after each would take longer than the training.
    "checkpoint": {"every_epochs": 30},
}
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t for a two-sided 95% interval, by degrees of freedom."""


def job(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Run one method with one seed, or read what an earlier call found."""
    import torch

    import kdtool

    torch.set_num_threads(1)
    folder = out / f"{name}-{seed}"
    if (folder / "recipe.yaml").exists():
        return kdtool.run(resume=folder).to_dict()
    recipe = {**COMMON, "method": name, "out": str(folder)}
    recipe["train"] = {**COMMON["train"], "seed": seed}
    if name == "none":
        recipe.pop("teacher")
    else:
        from kdtool import registry

        method = registry.get(name)
        if method.teachers[1] == 0:
            recipe.pop("teacher")
        elif method.online:
            recipe["teacher"] = {"model": COMMON["student"]["model"]}
    return kdtool.run(recipe).to_dict()


def row(name: str, results: list[dict[str, Any]], alone: list[float]) -> str:
    """Return a method's line of the table; differences are paired by seed."""
    top1 = [100 * result["test"]["student"]["top1"] for result in results]
    steps = {result["steps"] for result in results}
    line = f"| `{name}` | {statistics.mean(top1):.2f} ± {statistics.stdev(top1):.2f} |"
    if name == "none":
        line += " |"
    else:
        gains = [one - other for one, other in zip(top1, alone, strict=True)]
        half = T_975[len(gains) - 1] * statistics.stdev(gains) / math.sqrt(len(gains))
        line += f" {statistics.mean(gains):+.2f} ± {half:.2f} |"
    return f"{line} {', '.join(map(str, sorted(steps)))} |"


def main() -> None:
    """Run what is missing and write the table."""
    from kdtool import registry

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=registry.names())
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/methods-table"))
    args = parser.parse_args()
    names = ["none", *args.methods]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        futures = {name: [pool.submit(job, name, seed, args.out) for seed in range(args.seeds)] for name in names}
        results: dict[str, list[dict[str, Any]]] = {}
        for name, waiting in futures.items():
            results[name] = [future.result() for future in waiting]
            print(name, [round(100 * r["test"]["student"]["top1"], 2) for r in results[name]], flush=True)
    alone = [100 * result["test"]["student"]["top1"] for result in results["none"]]
    lines = [
        f"| method | top-1, mean ± deviation of {args.seeds} seeds | paired gain over `none`, 95% | steps |",
        "| --- | --- | --- | --- |",
    ]
    text = README.read_text()
    before, table, after = text.split(BEGIN)[0], text.split(BEGIN)[1].split(END)[0], text.split(END)[1]
    kept = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    made = {name: row(name, results[name], alone) for name in names}
    lines += [{**kept, **made}.get(name, f"| `{name}` | not run yet | | |") for name in ("none", *registry.names())]
    README.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)
    (args.out / "table.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
