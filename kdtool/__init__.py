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
    "kdtool.options": ("option",),
    "kdtool.api": ("Result", "run"),
    "kdtool.cache.manage": ("build_cache", "list_caches", "prune_caches", "verify_caches"),
    "kdtool.comparison.compare": ("Comparison", "compare"),
    "kdtool.evaluation.evaluate": ("evaluate",),
    "kdtool.profiling.profile": ("profile",),
    "kdtool.ship.export": ("export",),
    "kdtool.inspection.inspect": ("inspect",),
    "kdtool.health": ("doctor",),
    "kdtool.page.report": ("write_report",),
    "kdtool.run_list": ("list_runs",),
    "kdtool.shipped": ("copy_recipe", "shipped_recipes"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

if TYPE_CHECKING:
    from kdtool.api import Result, run
    from kdtool.cache.manage import build_cache, list_caches, prune_caches, verify_caches
    from kdtool.comparison.compare import Comparison, compare
    from kdtool.evaluation.evaluate import evaluate
    from kdtool.health import doctor
    from kdtool.inspection.inspect import inspect
    from kdtool.method import Batch, Layer, Method, Out, Setup, Stage, Taps
    from kdtool.options import option
    from kdtool.page.report import write_report
    from kdtool.profiling.profile import profile
    from kdtool.run_list import list_runs
    from kdtool.ship.export import export
    from kdtool.shipped import copy_recipe, shipped_recipes

__all__ = [
    "API",
    "Batch",
    "Comparison",
    "Layer",
    "Method",
    "Out",
    "Result",
    "Setup",
    "Stage",
    "Taps",
    "build_cache",
    "compare",
    "copy_recipe",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "list_caches",
    "list_runs",
    "option",
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
