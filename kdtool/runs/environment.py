"""What decides a run's bytes beside its recipe: versions, the processor, and the threads that sums are split over."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdtool.system import strict_json
from kdtool import __version__
from kdtool.system.disk import write_whole

FILE = "environment.json"


def current() -> dict[str, Any]:
    """Return the versions in use, the processor, torch's number of threads and the number of processes."""
    import timm
    import torch

    from kdtool.engine.processes import world_size

    versions = {"kdtool": __version__, "python": platform.python_version(), "torch": torch.__version__}
    versions |= {"timm": timm.__version__, "processor": processor()}
    return {**versions, "threads": torch.get_num_threads(), "processes": world_size()}


def record(folder: Path) -> None:
    """Note in a run's folder what it begins with."""
    write_whole(folder / FILE, strict_json.dumps(current(), indent=2) + "\n")


def processor() -> str:
    """Return the processor's name as the system gives it, or its architecture."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def processes_of(folder: Path) -> int:
    """Return in how many processes the run in ``folder`` began; 1 where that is not recorded."""
    try:
        return int(json.loads((folder / FILE).read_text())["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1


@contextmanager
def as_recorded(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Compute with the number of threads that the run in ``folder`` began with; other versions only bring a warning."""
    import torch

    before = torch.get_num_threads()
    try:
        recorded = json.loads((folder / FILE).read_text())
        threads = int(recorded.pop("threads"))
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        recorded, threads = {}, before  # an edited or missing note must not keep a run from going on
    now = current()
    other = [f"{name} {was}, now {now[name]}" for name, was in recorded.items() if now.get(name, was) != was]
    if other:
        warn(f"the run in {folder} began with {'; '.join(other)}: it may not end with the same bytes.")
    torch.set_num_threads(max(1, threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)
