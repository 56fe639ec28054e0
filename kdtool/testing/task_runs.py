"""The checks of what a task keeps: weights, a run that is taken up again, a teacher's outputs."""

from __future__ import annotations

import ast
import builtins
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtool import registry
from kdtool.engine.dry import undisturbed
from kdtool.engine.rows import whole
from kdtool.events import Reporter
from kdtool.recipe.schema import Recipe
from kdtool.registry import tasks
from kdtool.runs.api import run
from kdtool.tasks.task import Built
from kdtool.testing.faults import at, require, some
from kdtool.testing.material import Material, recipe_of
from kdtool.testing.task_samples import TaskBench

WITHOUT_KDTOOL = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kdtool":
            raise ImportError("kdtool was imported")
sys.meta_path.insert(0, Refusing())
"""

# --- weights ----------------------------------------------------------------------------------------------------


def state_round_trips(bench: TaskBench) -> None:
    found = bench.material
    for kind in found.kinds:
        with at(kind), tempfile.TemporaryDirectory() as folder:
            ours, theirs = (found.networks(kind, [], seed, False)[0] for seed in (0, 1))
            path = _saved(found, ours, Path(folder) / "one")
            require(path.is_file(), "save returns the path of the weights that it wrote")
            first, second = _bytes(path.parent), _bytes(_saved(found, ours, Path(folder) / "two").parent)
            require(first == second, f"saved twice, {some(_unequal(first, second))} differ")
            found.task.load(theirs, path.parent)
            with undisturbed(ours.module), undisturbed(theirs.module):
                batch = found.batches([ours])[0]
                want, got = (whole(each.tapped().eval()(batch.inputs)[0]) for each in (ours, theirs))
            require(torch.equal(want, got), "a network that load filled gives other outputs than the saved one")


def opens_without_kdtool(bench: TaskBench) -> None:
    found = bench.material
    for kind in found.kinds:
        with at(kind), tempfile.TemporaryDirectory() as folder:
            built = found.networks(kind, [], 0, False)[0]
            path = _saved(found, built, Path(folder) / "student")
            others = [name for name in tasks.names() if name != bench.name and tasks.get(name).knows(path.parent)]
            require(not others, f"the task {some(others)} takes its folder for one of its own: see Task.knows")
            opens_alone(found.task.how_to_open(built, path.parent), path)


def opens_alone(line: str, weights: Path) -> None:
    """Require that a line opens a network in a process without kdtool, with the weights of a file."""
    done = subprocess.run([sys.executable, "-c", _program(line, weights)], capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"`{line}` fails without kdtool: {done.stderr.strip()[-500:]}")


def _program(line: str, weights: Path) -> str:
    """Return a program that runs a line, its modules imported, and compares the network that it makes with the file."""
    program = ast.parse(line)
    *_, last = program.body
    if isinstance(last, ast.Expr):
        program.body[-1] = ast.parse(f"found = ({ast.unparse(last.value)})").body[0]
    names = {node.id for node in ast.walk(program) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    made = {node.id for node in ast.walk(program) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    modules = sorted(names - made - set(dir(builtins)))
    lines = [WITHOUT_KDTOOL, *(f"import {module}" for module in modules), "import safetensors.torch, torch"]
    compare = f"""
want = safetensors.torch.load_file({str(weights)!r})
for network in [each for each in list(globals().values()) if isinstance(each, torch.nn.Module)]:
    state = network.state_dict()
    unequal = [name for name in want if name not in state or not torch.equal(want[name], state[name])]
    assert not unequal, f"other weights than those of the file: {{unequal[:3]}}"
"""
    return "\n".join([*lines, ast.unparse(program), compare])


def _saved(found: Material, built: Built, folder: Path) -> Path:
    state: Mapping[str, Tensor] = built.module.state_dict()
    return found.task.save(folder, built, state, found.data, found.recipe)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _unequal(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return [name for name in {*one, *other} if one.get(name) != other.get(name)]


# --- runs -------------------------------------------------------------------------------------------------------


class _StoppedError(Exception):
    """The check's own end of a run."""


class _Stopping(Reporter):
    """Ends a run in the middle of the student's second epoch."""

    def __init__(self) -> None:
        self.named, self.epochs = "", 0

    def phase(self, name: str) -> None:
        self.named, self.epochs = name, 0

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.epochs += 1

    def step(self, terms: Mapping[str, float], step: int, steps: int, samples_per_s: float) -> None:
        if self.named == "student" and self.epochs == 1 and step == min(2, steps):
            raise _StoppedError


def runs_resume(bench: TaskBench) -> None:
    with _alone() as folder:
        recipe = _short(bench, folder)
        whole = _student(recipe, folder / "whole")
        recipe.out = str(folder / "stopped")
        try:
            run(recipe, reporter=_Stopping())
        except _StoppedError:
            pass
        else:
            require(False, "a run of two epochs takes no second step in the second")
        require(not (folder / "stopped" / "student").exists(), "a run that was stopped has a student already")
        run(resume=folder / "stopped")
        again = (folder / "stopped" / "student" / "model.safetensors").read_bytes()
        require(again == whole, "a run that was stopped and resumed gives other weights than one that was not")


def runs_replay_their_teacher(bench: TaskBench) -> None:
    with _alone() as folder:
        recipe = _short(bench, folder, data__views=1, cache__mode="build", cache__dtype="fp32")
        first = _student(recipe, folder / "first")
        recipe.cache.mode = "require"
        require(_student(recipe, folder / "second") == first, "a run that replays its teacher gives other weights")


def _student(recipe: Recipe, out: Path) -> bytes:
    recipe.out = str(out)
    run(recipe)
    return (out / "student" / "model.safetensors").read_bytes()


def _short(bench: TaskBench, folder: Path, **more: Any) -> Recipe:
    return recipe_of(
        bench.material.task, folder / "data", 0, method=registry.default(), train__epochs=2, train__batch_size=8,
        train__log_every=1, checkpoint__every_steps=1, teacher__train__epochs=1, teacher__train__batch_size=8,
        teacher__check="off", teacher__weights="scratch", student__weights="scratch", **more,
    )  # fmt: skip


@contextmanager
def _alone() -> Iterator[Path]:
    """Give a folder, in which kept teachers and caches go, too."""
    before = os.environ.get("KDTOOL_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDTOOL_HOME"] = str(Path(folder) / "home")
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["KDTOOL_HOME"]
            else:
                os.environ["KDTOOL_HOME"] = before
