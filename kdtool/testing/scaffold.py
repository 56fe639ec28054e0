"""The package of a new method: what ``kdtool new-method`` writes."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
from dataclasses import dataclass
from pathlib import Path

from kdtool import API, __version__, registry
from kdtool.errors import InputError

_METHOD = '''\
"""Title of the paper. Authors, venue and year. Its address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from kdtool import Batch, Method, Setup, Taps, option
from torch import Tensor, nn


def feature_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return half the mean squared difference of (B, D) features."""
    return 0.5 * F.mse_loss(student_BD, teacher_BD)


class @CLASS@(Method):
    """The student's embedding, mapped by a linear layer, comes close to the teacher's."""

    api = @API@
    paper = "Authors, Title of the paper, venue and year"
    equation = "cross-entropy + weight · 1/2 · mean (W student - teacher)^2"
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the feature term", min=0.0)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"embedding": "embedding"}, teacher={"embedding": "embedding"})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        student = setup.student["embedding"][0]
        self.maps = nn.ModuleList(nn.Linear(student, shapes["embedding"][0]) for shapes in setup.teachers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        student = batch.student.taps["embedding"]
        pairs = zip(self.maps, batch.teachers, strict=True)
        losses = [feature_loss(to_teacher(student), teacher.taps["embedding"]) for to_teacher, teacher in pairs]
        return {"feature": self.cfg.weight * sum(losses)}
'''

_TEST = '''\
"""What kdtool asks of every method, and what the paper says of this one."""

import torch
from kdtool.testing import parametrize_with_checks

from @PACKAGE@.method import @CLASS@, feature_loss


@parametrize_with_checks({"@NAME@": @CLASS@})
def test_conformance(check):
    check()


def test_the_loss_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])
    assert feature_loss(student, teacher) == 0.5 * (2.0**2 + 0.0) / 2
    assert feature_loss(teacher, teacher) == 0
'''

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "@DISTRIBUTION@"
version = "0.1.0"
description = "The distillation method @NAME@ for kdtool"
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["kdtool>=@VERSION@"]

[project.optional-dependencies]
test = ["pytest>=8"]

# What makes `kdtool run --method @NAME@` find the class.
[project.entry-points."kdtool.methods"]
@NAME@ = "@PACKAGE@.method:@CLASS@"

[tool.hatch.build.targets.wheel]
packages = ["@PACKAGE@"]
"""

_README = """\
# @DISTRIBUTION@

The distillation method `@NAME@` for [kdtool](https://pypi.org/project/kdtool/).

    pip install @DISTRIBUTION@
    kdtool run --method @NAME@ --teacher resnet50 --student mobilenetv3

`kdtool show @NAME@` lists its options.

## Work on it

    pip install -e '.[test]'
    pytest
    kdtool check @NAME@
"""

_IMPORTED = {"Any", "Batch", "F", "Method", "Setup", "Taps", "Tensor"}


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        method: what ``--method`` takes.
        folder: the package's folder.
        files: those in it.
    """

    method: str
    folder: Path
    files: list[Path]


def new_method(name: str, out: Path | None = None) -> Made:
    """Write a pip-installable package with a small method, a test that uses the conformance kit, and a README.

    Args:
        name: of the method; ``-`` becomes ``_``.
        out: the package's folder; default: ``kdtool-NAME`` here.

    Raises:
        InputError: no method may have that name, an installed one has it, or the folder is there.
    """
    method = name.replace("-", "_")
    _refuse(name, method)
    dashed = method.replace("_", "-").strip("-")
    folder = out if out is not None else Path(f"kdtool-{dashed}")
    if folder.exists():
        raise InputError(f"{folder} exists: choose another folder with --out, so that nothing is overwritten.")
    package = f"kdtool_{method}"
    words = {
        "@API@": str(API),
        "@CLASS@": _class_name(method),
        "@DISTRIBUTION@": f"kdtool-{dashed}",
        "@NAME@": method,
        "@PACKAGE@": package,
        "@VERSION@": __version__,
    }
    sources = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{package}/__init__.py": '"""The distillation method @NAME@ for kdtool."""\n',
        f"{package}/method.py": _METHOD,
        f"tests/test_{method}.py": _TEST,
    }
    files = []
    for place, text in sources.items():
        for word, value in words.items():
            text = text.replace(word, value)
        files.append(folder / place)
        try:
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write {files[-1]}: {error.strerror}. Choose another folder with --out."
            ) from error
    return Made(method, folder, files)


def _refuse(name: str, method: str) -> None:
    problem = registry.name_problem(method)
    if problem:
        raise InputError(f"no method can be called {name!r}{problem}")
    for entry in registry.entries():
        if entry.name == method:
            raise InputError(f"{entry.origin} has a method {method!r} already; choose another name.")
    if importlib.util.find_spec(f"kdtool_{method}") is not None:
        raise InputError(f"a package kdtool_{method} is installed already; choose another name than {name!r}.")


def _class_name(method: str) -> str:
    name = "".join(word.capitalize() for word in method.split("_"))
    taken = name in _IMPORTED or keyword.iskeyword(name) or hasattr(builtins, name)
    return f"{name}Method" if taken else name
