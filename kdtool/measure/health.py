"""Whether this machine can run kdtool: every check with what was found, and the fix where it is a fault.

Nothing here imports torch or timm, which may be what is broken: ``kdtool.measure.probe`` does, in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kdtool import __version__
from kdtool.system.children import ending
from kdtool.system.home import home

OK, NOTE, FAULT = "ok", "note", "fault"

DISK_BYTES = 2e9
"""Less free disk than this is a fault: a cached teacher and its checkpoints take about so much."""

MEMORY_BYTES = 2e9
"""Less available memory than this is a fault."""

SHARED_BYTES = 1e9
"""Less shared memory than this is worth a note: worker processes hand over batches in it."""

PROBE_SECONDS = 180

_REINSTALL = "pip install --upgrade --force-reinstall torch torchvision  (both from the same index)"


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        state: "ok", "note" (works, but worth knowing) or "fault".
        found: what is there.
        fix: what to do; None where nothing is to be done.
    """

    name: str
    state: str
    found: str
    fix: str | None = None


def doctor() -> list[Check]:
    """Look at Python, torch and its companions, devices, disk, memory, caches, plugins and extras."""
    probed = _probe()
    return [
        *_python(),
        *_requirements(),
        *_torch(probed),
        *_devices(probed),
        *_memory(),
        *_places(),
        *_plugins(probed),
        *_extras(),
    ]


def healthy(checks: list[Check]) -> bool:
    """Return whether no check found a fault."""
    return all(check.state != FAULT for check in checks)


# --- Python and packages ------------------------------------------------------------------------------------------


def _python() -> Iterator[Check]:
    version, needed = sys.version.split()[0], _metadata("Requires-Python")
    old = bool(needed) and not _satisfies(version, needed)
    fix = f"make a virtual environment with Python {needed}" if old else None
    yield Check("python", FAULT if old else OK, f"{version} ({sys.executable})", fix)
    yield Check("kdtool", OK, __version__)


def _requirements() -> Iterator[Check]:
    for name, needed, extra in _required():
        installed = _version(name)
        if extra or (installed is not None and _satisfies(installed, needed)):
            continue
        found = "not installed" if installed is None else f"{installed}, but kdtool needs {needed}"
        yield Check(name, FAULT, found, f"pip install --upgrade '{name}{needed}'")


def _extras() -> Iterator[Check]:
    extras: dict[str, list[str]] = {}
    for name, needed, extra in _required():
        if extra:
            lacks = (installed := _version(name)) is None or not _satisfies(installed, needed)
            extras.setdefault(extra, []).extend([name] * lacks)
    for extra, missing in sorted(extras.items()):
        fix = f"if you want it: pip install 'kdtool[{extra}]'" if missing else None
        found = f"lacks {', '.join(sorted(missing))}" if missing else "present"
        yield Check(f"extra {extra}", NOTE if missing else OK, found, fix)


def _metadata(key: str) -> str:
    try:
        return str(metadata.metadata("kdtool")[key] or "")
    except metadata.PackageNotFoundError:
        return ""


def _required() -> Iterator[tuple[str, str, str | None]]:
    """Yield name, version specifier and extra (or None) of kdtool's dependencies."""
    try:
        lines = metadata.requires("kdtool") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?(?:;.*extra == ['\"]([\w-]+)['\"])?", line)
        if match and match[1] != "kdtool":
            yield match[1], match[2].strip(), match[3]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", version.split("+")[0].split("rc")[0])]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _satisfies(version: str, specifier: str) -> bool:
    """Judge by ">=", "<" and "==" of plain numbers, which is all that kdtool and torchvision ask for."""
    for operator, wanted in re.findall(r"(>=|==|<)\s*([\w.]+)", specifier):
        have, want = _numbers(version), _numbers(wanted)
        if not {">=": have >= want, "==": have == want, "<": have < want}[operator]:
            return False
    return True


# --- torch, torchvision, timm ---------------------------------------------------------------------------------------


def _told(code: int) -> str:
    return f"the process was ended by {ending(code)}" if code < 0 else f"the process ended with {code}"


def _probe() -> dict[str, dict[str, Any]]:
    """Return each step's line; a step that ended the process holds an error, those after it are missing."""
    # The same path as here: a torch.py in the current folder must not be taken for torch.
    code = f"import sys; sys.path[:] = {sys.path!r}; from kdtool.measure.probe import main; main()"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS)
        output, ended = done.stdout, _told(done.returncode)
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        ended = f"did not answer within {PROBE_SECONDS} s"
    found: dict[str, dict[str, Any]] = {}
    for text in output.splitlines():
        line = json.loads(text)
        found[line["step"]] = line
    for line in found.values():
        if "found" not in line and "error" not in line:
            line["error"] = ended
    return found


def _torch(probed: dict[str, dict[str, Any]]) -> Iterator[Check]:
    for name in ("torch", "torchvision", "timm"):
        line = probed.get(name, {"error": "not looked at, because what comes before it failed"})
        if "found" in line:
            about = line["found"]
            build = f" ({'CUDA ' + about['cuda'] if about['cuda'] else 'CPU'} build)" if name == "torch" else ""
            yield Check(name, OK, about["version"] + build)
        else:
            yield Check(name, FAULT, _first_line(line["error"]), _fix(name, line))
    yield from _fit(probed)


def _fix(name: str, line: dict[str, Any]) -> str:
    error = line["error"]
    if line.get("missing"):
        return f"pip install {name}"
    if "torchvision::" in error or "torchvision._C" in error:
        return f"torchvision was built for another torch than the one installed. {_REINSTALL}"
    if "umpy" in error and ("ABI" in error or "not available" in error or "compiled" in error):
        return "numpy and torch do not fit: pip install --upgrade numpy torch"
    if name == "torchvision":
        return _REINSTALL
    return f"pip install --upgrade --force-reinstall {name}"


def _fit(probed: dict[str, dict[str, Any]]) -> Iterator[Check]:
    """Compare torch's and torchvision's builds, by their files, so that it works where neither can be imported."""
    torch, vision = _version("torch"), _version("torchvision")
    if torch is None or vision is None:
        return
    kinds = _build("torch", torch), _build("torchvision", vision)
    needs = next((r for r in metadata.requires("torchvision") or [] if re.match(r"torch\b(?!v)", r)), "")
    if not _satisfies(torch, needs):
        yield Check("torch and torchvision", FAULT, f"torchvision {vision} needs {needs}, torch is {torch}", _REINSTALL)
    elif None not in kinds and kinds[0] != kinds[1]:
        found = f"torch {torch} is a {kinds[0]} build, torchvision {vision} a {kinds[1]} build"
        yield Check("torch and torchvision", FAULT, found, _REINSTALL)
    elif all("found" in probed.get(name, {}) for name in ("torch", "torchvision")):
        yield Check("torch and torchvision", OK, "built for one another")


def _build(package: str, version: str) -> str | None:
    """Return "CPU" or "CUDA", or None where neither the version nor the package's own note of it tells."""
    local = version.partition("+")[2]
    if local.startswith(("cpu", "cu")):
        return "CPU" if local.startswith("cpu") else "CUDA"
    try:
        text = Path(str(metadata.distribution(package).locate_file(f"{package}/version.py"))).read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*(.+)$", text, re.MULTILINE)
    return None if found is None else "CPU" if found[1].strip() == "None" else "CUDA"


# --- devices, memory, disk ----------------------------------------------------------------------------------------


def _devices(probed: dict[str, dict[str, Any]]) -> Iterator[Check]:
    line = probed.get("devices", {})
    if "found" not in line:
        if "error" in probed.get("torch", {"error": ""}):
            return  # said above
        yield Check("devices", FAULT, _first_line(line.get("error", "")), "reinstall torch and the graphics driver")
        return
    for device in line["found"]["devices"]:
        bf16 = {True: "bf16 native", False: "bf16 emulated: slower than fp32", None: "bf16 unknown"}[device["bf16"]]
        memory = f", {device['bytes'] / 1e9:.0f} GB" if device["bytes"] else ""
        if device["problem"]:
            fix = "this torch does not fit the card or its driver: see https://pytorch.org/get-started/locally"
            yield Check(device["name"], FAULT, device["problem"], fix)
        else:
            yield Check(device["name"], OK, f"{bf16}{memory}")
    yield Check("threads", OK, f"{line['found']['threads']} of {_cores()} cores")
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    used = any(device["name"].startswith("cuda") for device in line["found"]["devices"])
    if driver and not used:
        fix = "install a CUDA build of torch, newer drivers, or check CUDA_VISIBLE_DEVICES"
        yield Check("nvidia driver", NOTE, "present, but torch sees no CUDA device", fix)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> Iterator[Check]:
    free = available_memory()
    if free is not None:
        low = free < MEMORY_BYTES
        yield Check("memory", FAULT if low else OK, f"{free / 1e9:.1f} GB available",
                    f"free some: {MEMORY_BYTES / 1e9:.0f} GB are the least" if low else None)  # fmt: skip
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < SHARED_BYTES:
        fix = "with data.workers above 0, give the container more: docker run --shm-size=8g"
        yield Check("shared memory", NOTE, f"{size / 1e6:.0f} MB in {shared}", fix)


def available_memory() -> int | None:
    """Return the bytes of memory that are free to use, a container's limit included; None where that is unknown."""
    found: list[int] = []
    try:
        text = Path("/proc/meminfo").read_text()
        found += [int(kilobytes) * 1024 for kilobytes in re.findall(r"MemAvailable:\s+(\d+)", text)]
        limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            found.append(int(text) - int(used.read_text()))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def _places() -> Iterator[Check]:
    hugging_face = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    places = {"KDTOOL_HOME": home(), "Hugging Face cache": Path(hugging_face).expanduser(), "runs": Path.cwd()}
    fixes = {
        "KDTOOL_HOME": "set KDTOOL_HOME",
        "Hugging Face cache": "set HF_HOME",
        "runs": "go elsewhere, or use --out",
    }
    for name, place in places.items():
        problem = _unwritable(place)
        free = shutil.disk_usage(_existing(place)).free
        if problem:
            yield Check(name, FAULT, f"{place}: cannot be written ({problem})", f"{fixes[name]}: a writable folder")
        elif free < DISK_BYTES:
            yield Check(name, FAULT, f"{place}: {free / 1e9:.2f} GB free", f"free some disk, or {fixes[name]}")
        else:
            yield Check(name, OK, f"{place}: writable, {free / 1e9:.0f} GB free")


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.parents) if path.exists())


def _unwritable(place: Path) -> str | None:
    """Try it: permission bits say little on network disks, read-only mounts and for root. Leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=_existing(place)) as file:
            file.write(b"0")
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


# --- plugins ------------------------------------------------------------------------------------------------------


def _plugins(probed: dict[str, dict[str, Any]]) -> Iterator[Check]:
    line = probed.get("plugins", {})
    if "found" not in line:
        if "error" not in probed.get("torch", {"error": ""}):
            yield Check("plugins", FAULT, _first_line(line.get("error", "")), "see kdtool list-methods --debug")
        return
    broken = [each for each in line["found"]["methods"] if each["error"]]
    for each in broken:
        package = each["origin"].split(" ")[0]
        fix = f"pip install --upgrade {package}, or pip uninstall it, or leave it out by KDTOOL_PLUGINS"
        yield Check(f"method {each['name']}", FAULT, _first_line(each["error"]), fix)
    for problem in line["found"]["models"]:
        yield Check("models", FAULT, _first_line(problem), "upgrade or uninstall that package")
    counts: dict[str, int] = {}
    for each in line["found"]["methods"]:
        counts[each["origin"]] = counts.get(each["origin"], 0) + (each["error"] is None)
    for origin, count in sorted(counts.items()):
        yield Check("plugins", OK, f"{origin}: {count} methods")
    if limit := os.environ.get("KDTOOL_PLUGINS"):
        yield Check("KDTOOL_PLUGINS", NOTE, f"only {limit} and kdtool's own are looked at")


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else "no message"
