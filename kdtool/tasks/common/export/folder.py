"""The folder that exports are written to: checked, held, and filled with files that were compared alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from kdtool.errors import InputError, did_you_mean
from kdtool.system.disk import aside, bytes_in, writing
from kdtool.system.locks import sole_lock
from kdtool.tasks.common.export import coreml_file, litert_file, onnx_file, openvino_file, tensorrt_file
from kdtool.tasks.common.export.checks import NotRun, Reference

EXPORTS = "export"
"""The folder in a run's that ``kdtool export`` writes to."""

NEEDS: dict[str, Callable[[], Any]] = {
    "onnx": onnx_file.need_packages,
    "openvino": openvino_file.need_package,
    "litert": litert_file.need_package,
    "coreml": coreml_file.need_package,
    "tensorrt": tensorrt_file.need_package,
}
"""What refuses a format, by the first word of its name, where its packages (or what runs it) are missing."""

N = TypeVar("N")


def check_asked(to: Sequence[str], formats: Sequence[str], tolerance: float | None) -> None:
    """Refuse formats that there are none of, and tolerances that are none.

    Raises:
        InputError: so it is, or the packages of what is asked for are missing.
    """
    if wrong := [name for name in to if name not in formats] or ([""] if not to else []):
        raise InputError(f"--to {wrong[0]} is no format. {did_you_mean(wrong[0], formats)}")
    if tolerance is not None and not 0 <= tolerance <= 100:
        raise InputError(f"--tolerance {tolerance:g}: points of accuracy, from 0 to 100.")
    for kind in dict.fromkeys(name.partition("-")[0] for name in to):
        NEEDS.get(kind, lambda: None)()


def folder_for(name: str, path: Path | None, out: str | Path | None) -> Path:
    """Return the folder to write to.

    Args:
        name: of the target.
        path: its own folder, None without one.
        out: what the user asks for.

    Raises:
        InputError: there is none, or it is a file.
    """
    if out is None and path is None:
        raise InputError(f"{name} has no folder of its own: say where to write with --out.")
    folder = Path(out) if out is not None else Path(str(path)) / EXPORTS
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder.")
    return folder


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Make and hold the folder of exports; gives one inside it for what is not compared yet, and removes that.

    Raises:
        InputError: another process holds it.
    """
    with sole_lock(folder / ".lock", f"the folder {folder}"):
        apart = aside(folder / "exports")
        shutil.rmtree(apart, ignore_errors=True)  # of one that was killed
        with writing(apart, 0):
            apart.mkdir()
        try:
            yield apart
        finally:
            shutil.rmtree(apart, ignore_errors=True)


def keep_if_good(
    form: str,
    place: Path,
    apart: Path,
    reference: Reference,
    tolerance: float | None,
    *,
    needed: int,
    write: Callable[[Path], dict[str, Any]],
    open_file: Callable[[Path], N | NotRun],
    logits: Callable[[N], Tensor],
) -> tuple[dict[str, Any], N | None]:
    """Write one export into the folder ``apart``, load it back and compare it; move it to its place if it is good.

    Args:
        form: the format.
        place: where it goes.
        apart: a folder on the same disk.
        reference: what it is compared with.
        tolerance: see ``Reference.compare``.
        needed: its bytes, about.
        write: writes it to a path, with what belongs to it beside it under the same stem, and returns what there is to
            say of it.
        open_file: loads it back as a network, or says why it cannot be run here.
        logits: of such a network on the reference's samples.

    Returns:
        What is known of it, and the loaded network where it was kept and can be run.
    """
    made = apart / place.name
    with writing(made, needed):
        more = write(made)
    opened = open_file(made)
    if isinstance(opened, NotRun):
        network, found = None, reference.not_compared(form, tolerance, opened)
    else:
        network, found = opened, reference.compare(form, logits(opened), tolerance)
    parts = sorted(apart.glob(f"{made.stem}.*"))
    size = sum(bytes_in(part) for part in parts)
    for part in parts:
        goes = place.with_name(part.name)
        if not found["accepted"] or part.is_dir():
            _remove(goes)  # an older one is no export of this student, and no folder replaces another
        if found["accepted"]:
            part.replace(goes)
        else:
            _remove(part)
    about = {"file": str(place) if found["accepted"] else None, "bytes": size, **found, **more}
    return about, network if found["accepted"] else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
