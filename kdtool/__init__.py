"""kdtool: knowledge distillation from the command line and from Python.

The names below are what users and plugin authors import. They load on first use, so that importing kdtool, and
``kdtool --help``, do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
API = 1
"""Version of the contract between methods and the engine (``Method.api``)."""

_HOME = {
    "kdtool.method": ("Batch", "Layer", "Method", "Out", "Setup", "Stage", "Taps"),
    "kdtool.recipe.options": ("option",),
    "kdtool.runs.api": ("Result", "run"),
    "kdtool.cache.manage": ("build_cache", "list_caches", "prune_caches", "verify_caches"),
    "kdtool.comparison.compare": ("Comparison", "compare"),
    "kdtool.measure.evaluate": ("evaluate", "export"),
    "kdtool.measure.predict": ("predict",),
    "kdtool.generation.api": ("generate",),
    "kdtool.measure.profile": ("profile",),
    "kdtool.measure.inspect": ("inspect",),
    "kdtool.measure.health": ("doctor",),
    "kdtool.report.report": ("write_report",),
    "kdtool.runs.listing": ("list_runs",),
    "kdtool.tasks.task": ("Task",),
    "kdtool.events": ("Metric",),
    "kdtool.recipe.shipped": ("copy_recipe", "shipped_recipes"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

if TYPE_CHECKING:
    from kdtool.cache.manage import build_cache, list_caches, prune_caches, verify_caches
    from kdtool.comparison.compare import Comparison, compare
    from kdtool.events import Metric
    from kdtool.generation.api import generate
    from kdtool.measure.evaluate import evaluate, export
    from kdtool.measure.health import doctor
    from kdtool.measure.inspect import inspect
    from kdtool.measure.predict import predict
    from kdtool.measure.profile import profile
    from kdtool.method import Batch, Layer, Method, Out, Setup, Stage, Taps
    from kdtool.recipe.options import option
    from kdtool.recipe.shipped import copy_recipe, shipped_recipes
    from kdtool.report.report import write_report
    from kdtool.runs.api import Result, run
    from kdtool.runs.listing import list_runs
    from kdtool.tasks.task import Task

__all__ = [
    "API",
    "Batch",
    "Comparison",
    "Layer",
    "Method",
    "Metric",
    "Out",
    "Result",
    "Setup",
    "Stage",
    "Taps",
    "Task",
    "build_cache",
    "compare",
    "copy_recipe",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "list_caches",
    "list_runs",
    "option",
    "predict",
    "profile",
    "prune_caches",
    "run",
    "shipped_recipes",
    "verify_caches",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'kdtool' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
