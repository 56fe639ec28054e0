"""What ``kdtool doctor`` learns only by importing torch, timm and the plugins: in a process that may die of it.

Each step writes one JSON line, so that a crash says which step it came from and loses none before it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

STEPS: dict[str, Callable[[], dict[str, Any]]] = {}


def _step(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    STEPS[function.__name__] = function
    return function


@_step
def torch() -> dict[str, Any]:
    import numpy as np
    import torch

    torch.from_numpy(np.zeros(2)).sum()  # numpy and torch built for one another
    return {"version": torch.__version__, "cuda": torch.version.cuda or torch.version.hip}


@_step
def torchvision() -> dict[str, Any]:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(boxes, torch.ones(1), 0.5)  # its compiled part is there
    return {"version": torchvision.__version__}


@_step
def timm() -> dict[str, Any]:
    import timm

    timm.create_model("resnet18")
    return {"version": timm.__version__}


@_step
def devices() -> dict[str, Any]:
    import torch

    found: list[dict[str, Any]] = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        major, minor = torch.cuda.get_device_capability(number)
        problem = None
        try:
            torch.ones(8, device=f"cuda:{number}").sum().item()
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        # torch computes bf16 on older cards too, in fp32 and slowly.
        native = bool(torch.version.hip) or major >= 8
        found.append({"name": f"cuda:{number} {about.name} {major}.{minor}", "bytes": about.total_memory,
                      "bf16": native, "problem": problem})  # fmt: skip
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "bytes": None, "bf16": True, "problem": None})
    flags: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions cannot tell
    computes = any(flags.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")) if flags else None
    found.append({"name": "cpu", "bytes": None, "bf16": computes, "problem": None})
    return {"devices": found, "threads": torch.get_num_threads()}


@_step
def plugins() -> dict[str, Any]:
    from kdtool import registry
    from kdtool.registry import models

    methods = [{"name": e.name, "origin": e.origin, "error": e.error} for e in registry.entries()]
    return {"methods": methods, "models": list(models.register())}


def main() -> None:
    """Run every step and write a line each: {"step", and "found" or "error"}."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between
    for name, step in STEPS.items():
        line: dict[str, Any] = {"step": name}
        out.write(json.dumps(line) + "\n")  # begun
        out.flush()
        try:
            line["found"] = step()
        except BaseException as error:
            line["error"] = f"{type(error).__name__}: {error}"
            line["missing"] = isinstance(error, ModuleNotFoundError) and error.name == name
        out.write(json.dumps(line) + "\n")
        out.flush()
