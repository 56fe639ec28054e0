"""A process that computes a share of a cache's shards: ``python -m kdtool.cache.worker < TASK.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kdtool.errors import KdtoolError, RunError
from kdtool.recipe import load as recipes
from kdtool.system.children import die_with_parent


def main(told: dict[str, Any]) -> None:
    """Build the run's networks and data anew and compute what the task says."""
    import torch

    from kdtool.cache.part import Part
    from kdtool.cache.store import Manifest, Place, Store
    from kdtool.engine.signals import StopRequest
    from kdtool.events import Reporter
    from kdtool.runs.execution import Execution
    from kdtool.runs.setting import build_setting

    recipe = recipes.from_dict(told["recipe"])
    number, jobs = told["share"]
    if torch.cuda.is_available() and recipe.train.device in ("auto", "cuda"):
        recipe.train.device = f"cuda:{number % torch.cuda.device_count()}"
    execution = Execution(build_setting(recipe), Reporter())
    with StopRequest() as stop:
        execution.ready_teachers(stop)  # kept by the process that started this one
        subject = execution.cached_teachers(stop)[told["teacher"]]
        manifest = Manifest.read(Path(told["folder"]))
        store = Store(Path(told["folder"]), manifest)
        if not told["key"] == store.key == subject.key:
            raise RunError("data, teacher or versions changed while the teacher cache was being built: start again.")

        def parts(names: list[str]) -> list[Part]:
            return [manifest.parts[name] for name in names]

        share = [(Place(view, block), parts(names)) for view, block, names in told["places"][number::jobs]]
        subject.source.build(store, share, lambda: stop.check("the same command"), lambda text: None)


if __name__ == "__main__":
    die_with_parent()
    try:
        main(json.load(sys.stdin))
    except KdtoolError as error:
        sys.exit(print(str(error), file=sys.stderr) or error.exit_code)
