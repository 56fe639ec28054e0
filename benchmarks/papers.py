"""Published experiments, repeated: runs what is missing and writes the tables of BENCHMARKS.md from the run folders.

    python benchmarks/papers.py [--root .] [--run WORD] [--seeds 5]

``--root`` holds ``data/mnist``, ``data/cifar100`` and ``runs/``. With ``--run`` every missing run whose folder's name
has that word in it is made, one after the other, and stopped ones are resumed. The notes of finished runs (recipe, log,
result, environment) are kept beside this file, in ``runs/``, and the page is made from these. A row counts only runs
whose recipe is the one that its command resolves to, so a number cannot drift from its run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marked  # beside this file
import raised_bias

from kdtool.recipe import load as recipes

HERE = Path(__file__).resolve().parent
NOTES = ("recipe.yaml", "metrics.jsonl", "result.json", "environment.json", "raised.json")
"""Files of a run's folder that the page is made from."""
BEGIN, END = "<!-- papers: made by benchmarks/papers.py -->", "<!-- end of papers -->"
ASIDE = ("out", "checkpoint")
"""Parts of a recipe that decide no number."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a command, repeated over seeds.

    Attributes:
        what: shown in the first column.
        paper: the published figure.
        command: what follows ``kdtool run``, ``{seed}`` standing for the seed.
        name: of the run's folder, which ends in the seed.
        seeds: how many at most; None: as many as asked for.
        unseen: number of the class that the student's data leaves out; its bias is raised afterwards.
    """

    what: str
    paper: str
    command: str
    name: str
    seeds: int | None = None
    unseen: int | None = None

    def arguments(self, seed: int) -> list[str]:
        """Return the recipe and the overrides of one seed."""
        return self.command.format(seed=seed).split()

    def folder(self, seed: int) -> Path:
        return Path("runs") / f"{self.name}-{seed}"


@dataclass(frozen=True)
class Table:
    """An experiment: its title, what is to be said about it, its unit ("errors" or "top-1"), and its rows."""

    title: str
    text: str
    unit: str
    rows: list[Row]


FAST = "train.precision=bf16"
OWN_TEACHER = f"{FAST} teacher.model=local-dir:runs/mnist/mlp_1200-{{seed}}/student train.seed={{seed}}"
STUDENT = f"mnist/mlp_800_from_mlp_1200_kd.yaml {OWN_TEACHER}"
SMALL = f"mnist/mlp_30_from_mlp_1200_kd.yaml {OWN_TEACHER}"
CACHED = "cache.mode=build"
TEN = "train.epochs=10 schedule.milestones=[6,8,9] teacher.train.epochs=6 teacher.train.schedule.milestones=[4,5]"
# A view an epoch: the teacher runs once for all methods, over the very images that it would see live.
CHEAP = f"{FAST} train.compile=default {CACHED} data.views=10"
PAIR = f"cifar100/resnet20_from_resnet56.yaml {CHEAP} {TEN} train.seed={{seed}}"

TABLES = [
    Table(
        "Hinton et al., 2015, section 3: MNIST",
        "Test errors of 10,000. Each student has the teacher of its own seed. Nothing is held out of the 60,000 "
        "training images, and the recipes' learning rates and epochs were chosen by errors on the test images, so "
        "that these counts are lower than those of settings chosen blindly. The distilled student is far from the "
        "paper's 74 errors, and so is the teacher from its 67. Seconds are of a machine that other work shared.",
        "errors",
        [
            Row("teacher 784-1200-1200-10", "67", f"mnist/mlp_1200.yaml {FAST} train.seed={{seed}}", "mnist/mlp_1200"),
            Row("student 784-800-800-10 alone", "146", f"{STUDENT} method=none", "mnist/mlp_800"),
            Row("the same, distilled at T=20", "74", f"{STUDENT} {CACHED}", "mnist/mlp_800-kd"),
            Row(
                "the same, from a transfer set without any 3",
                "206; 109 with the bias for 3 raised by 3.5",
                f"{STUDENT} {CACHED} data.exclude_classes=[3]",
                "mnist/mlp_800-kd-no3",
                seeds=1,
                unseen=3,
            ),
        ],
    ),
    Table(
        "Hinton et al., 2015, section 3: students with 30 units in each layer",
        "In the paper temperatures from 2.5 to 4 worked significantly better than higher or lower ones; it gives no "
        "numbers. These runs of one seed contradict it: errors grow with the temperature from T=1 on, and from T=3 on "
        "the student is worse than alone.",
        "errors",
        [
            Row("alone", "", f"{SMALL} method=none", "mnist/mlp_30", seeds=2),
            *(
                Row(f"T={t}", "", f"{SMALL} {CACHED} kd.temperature={t}", f"mnist/mlp_30-T{t}", seeds=2)
                for t in (1, 3, 8, 20)
            ),
        ],
    ),
    Table(
        "Tian et al., 2020, shortened: CIFAR-100, resnet56 to resnet20 in 10 epochs instead of 240",
        "Top-1 of the last epoch, which is what the paper's table holds, and in brackets of the epoch that was best on "
        "the test split. Ten epochs show that the recipes run, not what methods can do: the teacher, of six "
        "epochs, knows less than the student alone after ten.",
        "top-1",
        [
            Row(what, paper, f"{PAIR} method={method}", f"cifar100/{method}", seeds=1)
            for what, paper, method in (
                ("resnet20 alone", "69.06 (240 epochs)", "none"),
                ("`kd`", "70.66 (240 epochs)", "kd"),
                ("`rkd`", "69.61 (240 epochs)", "rkd"),
                ("`crd`", "71.16 (240 epochs)", "crd"),
            )
        ],
    ),
]


# --- runs -------------------------------------------------------------------------------------------------------------


def run(row: Row, seed: int) -> None:
    """Make one run, or go on with it."""
    folder = row.folder(seed)
    if not (folder / "result.json").exists():
        begun = (folder / "recipe.yaml").exists()
        arguments = ["--resume", str(folder)] if begun else [*row.arguments(seed), "--out", str(folder)]
        print("kdtool run", *arguments, flush=True)
        subprocess.run([sys.executable, "-m", "kdtool", "run", "--quiet", *arguments], check=True)
    if row.unseen is not None:
        raised_bias.write(folder, row.unseen)


def keep(row: Row, seed: int) -> None:
    """Copy a finished run's notes to where the page is made from."""
    folder = row.folder(seed)
    if (folder / "result.json").exists() and folder.resolve() != HERE / folder:
        (HERE / folder).mkdir(parents=True, exist_ok=True)
        for name in (name for name in NOTES if (folder / name).exists()):
            shutil.copyfile(folder / name, HERE / folder / name)


def finished(row: Row, seed: int, root: Path = HERE) -> dict[str, Any] | None:
    """Return a finished run's result and what lies beside it; None where there is none under ``root``.

    Raises:
        SystemExit: the folder holds a run of another recipe.
    """
    folder = root / row.folder(seed)
    needed = ["result.json"] if row.unseen is None else ["result.json", "raised.json"]
    if not all((folder / name).exists() for name in needed):
        return None
    path, *overrides = row.arguments(seed)
    wanted, found = (
        recipes.to_dict(recipes.load(path, overrides)),
        recipes.to_dict(recipes.load(folder / "recipe.yaml")),
    )
    other = differing({k: v for k, v in wanted.items() if k not in ASIDE}, found)
    if other:
        raise SystemExit(f"{folder} is not the run of `kdtool run {' '.join(row.arguments(seed))}`: {', '.join(other)}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "result": json.loads((folder / "result.json").read_text()),
        "environment": json.loads((folder / "environment.json").read_text()),
        "seen": [line["val"]["top1"] for line in lines if line["phase"] == "student" and line["val"]],
        "raised": json.loads((folder / "raised.json").read_text()) if row.unseen is not None else None,
    }


def differing(wanted: Any, found: Any, key: str = "") -> list[str]:
    """Return the dotted keys at which a recipe differs; what the wanted one leaves open differs from nothing."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [each for k, v in wanted.items() for each in differing(v, found.get(k), f"{key}.{k}".lstrip("."))]
    return [] if wanted is None or wanted == found else [f"{key}={found} instead of {wanted}"]


# --- tables -----------------------------------------------------------------------------------------------------------


def spread(values: list[float], digits: int) -> str:
    """Return mean and deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def measured(runs: list[dict[str, Any]], unit: str) -> str:
    """Return a row's figure over its runs."""
    top1 = [run["result"]["test"]["student"]["top1"] for run in runs]
    if unit == "errors":
        errors = [round((1 - each) * run["result"]["data"]["test"]) for each, run in zip(top1, runs, strict=True)]
        text = f"{spread([float(each) for each in errors], 1)} ({', '.join(map(str, errors))})"
        for each in (run["raised"] for run in runs if run["raised"]):
            text += f"; with its bias raised by 3.5: {each['by 3.5']['errors']} ({each['by 3.5']['on_class']} on it)"
            text += f", by {each['best']}: {each['by best']['errors']} ({each['by best']['on_class']} on it)"
        return text
    # While training the test split is seen in the training's precision, at the end in full.
    best = [max(*run["seen"], last) for run, last in zip(runs, top1, strict=True)]
    return f"{spread([100 * each for each in top1], 2)} ({spread([100 * each for each in best], 2)})"


def row_of(row: Row, runs: list[dict[str, Any]], unit: str) -> str:
    """Return a row's line of Markdown."""
    seconds = statistics.mean(run["result"]["seconds"]["total"] for run in runs)
    seeds = ", ".join(str(run["result"]["seed"]) for run in runs)
    return f"| {row.what} | {row.paper} | {measured(runs, unit)} | {seeds} | {seconds:.0f} |"


def command_of(row: Row) -> str:
    """Return what a row's runs were made with."""
    return f"kdtool run {row.command.format(seed='SEED')} --out runs/{row.name}-SEED"


def machine_of(runs: list[dict[str, Any]]) -> str:
    """Return where the runs were made: processor or GPU, threads, versions."""
    places = {
        f"{run['environment'].get('processor', 'an unnamed processor')}, device {run['result']['device']}, "
        f"{run['result']['threads']} thread{'s' * (run['result']['threads'] > 1)}, torch {run['environment']['torch']}"
        for run in runs
    }
    return "; ".join(sorted(places))


def table_of(table: Table, seeds: int, root: Path = HERE) -> list[str]:
    """Return a table in Markdown, with the rows that have runs."""
    lines, commands, all_runs = [], [], []
    for row in table.rows:
        runs = [found for seed in range(row.seeds or seeds) if (found := finished(row, seed, root))]
        if runs:
            lines.append(row_of(row, runs, table.unit))
            commands.append(command_of(row))
            all_runs += runs
    if not lines:
        return []
    head = ["", f"| run | paper | {table.unit} | seeds | s a run |", "| --- | --- | --- | --- | --- |"]
    how = ["", f"On: {machine_of(all_runs)}. By, row for row:", "", *(f"    {command}" for command in commands), ""]
    return [f"## {table.title}", "", table.text + teachers_of(all_runs, table.unit), *head, *lines, *how]


def teachers_of(runs: list[dict[str, Any]], unit: str) -> str:
    """Return a sentence on the teachers, where no row is about them."""
    known = {run["result"]["test"]["teacher"]["top1"] for run in runs if run["result"]["test"].get("teacher")}
    return f" Teacher: {', '.join(f'{100 * top1:.2f}' for top1 in sorted(known))}." if unit == "top-1" and known else ""


def arguments(about: str | None, seeds: int) -> argparse.Namespace:
    """Return the command line's ``root``, ``run`` and ``seeds``.

    Args:
        about: what is shown as help.
        seeds: the default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(), help="folder of data/, models/ where there are any, runs/")
    parser.add_argument("--run", metavar="WORD", help="make the missing runs with this word in their names")
    parser.add_argument("--seeds", type=int, default=seeds)
    return parser.parse_args()


def main() -> None:
    """Run what is missing and write the tables."""
    args = arguments(__doc__, 5)
    os.chdir(args.root)
    for seed in range(args.seeds):
        for row in (row for table in TABLES for row in table.rows if seed < (row.seeds or args.seeds)):
            if args.run and args.run in row.name:
                run(row, seed)
            keep(row, seed)
    body = "\n".join(line for table in TABLES for line in table_of(table, args.seeds))
    marked.write(BEGIN, END, body)


if __name__ == "__main__":
    main()
