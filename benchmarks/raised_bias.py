"""Test errors of a student that never saw one class, with that class's bias raised (Hinton et al., 2015, section 3).

    python benchmarks/raised_bias.py RUN CLASS

Writes RUN/raised.json. The paper raises the bias by 3.5, which it found best on the test split itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RAISES = [step / 10 for step in range(101)]


def raised(folder: Path, number: int) -> dict[str, Any]:
    """Return errors by how much the bias of class ``number`` is raised: at 0, at the paper's 3.5, and at the best."""
    import torch

    from kdtool.engine.evaluate import evaluate_in_fp32
    from kdtool.recipe import load as recipes
    from kdtool.tasks.common.classification import LogitsMeter
    from kdtool.tasks.images.data.loader import make_loader
    from kdtool.tasks.images.data.open import open_data
    from kdtool.tasks.images.models.build import build
    from kdtool.tasks.task import Reading

    cpu, recipe = torch.device("cpu"), recipes.load(folder / "recipe.yaml")
    data = open_data(recipe.data)
    built = build(f"local-dir:{folder / 'student'}", num_classes=len(data.class_names))
    norm = (built.mean, built.std)
    test = make_loader(data, data.test, recipe.data, built.image_size, norm, Reading(500, 0, cpu, train=False))
    logits = evaluate_in_fp32(built.tapped(), test, cpu, LogitsMeter())["logits"]
    labels = torch.from_numpy(data.test.labels)
    found = {}
    for by in RAISES:
        wrong = (logits + by * torch.eye(logits.shape[1])[number]).argmax(1) != labels
        found[by] = (int(wrong.sum()), int(wrong[labels == number].sum()))
    best = min(found, key=lambda by: found[by])
    return {
        "class": number, "of_class": int((labels == number).sum()), "best": best,
        **{name: {"errors": found[by][0], "on_class": found[by][1]} for name, by in
           (("not raised", 0.0), ("by 3.5", 3.5), ("by best", best))},
    }  # fmt: skip


def write(folder: Path, number: int) -> None:
    """Write ``raised.json`` into a run's folder, unless it is there."""
    path = folder / "raised.json"
    if not path.exists():
        path.write_text(json.dumps(raised(folder, number), indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("number", type=int, metavar="CLASS")
    args = parser.parse_args()
    write(args.run, args.number)
