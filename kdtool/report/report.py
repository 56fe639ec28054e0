"""``kdtool.write_report``: runs and comparisons as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.report.gather import Say, gather
from kdtool.report.html import render
from kdtool.system.disk import write_whole

PAGE = "report.html"


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, say: Say | None = None
) -> dict[str, Any]:
    """Write one self-contained page on runs and comparisons.

    Args:
        folders: of runs that have a student, and of comparisons.
        out: the page; an older one is replaced. Default: ``report.html`` in the folder, where there is only one.
        say: takes sentences for the user.

    Returns:
        "page", its path, and "sections": for each folder all that the page shows.

    Raises:
        InputError: plotly is missing, a folder is of neither kind, or ``out`` is missing or no place for a page.
    """
    try:
        import plotly.offline  # noqa: F401
    except ImportError as error:
        raise InputError("a report needs plotly: pip install 'kdtool[report]'.") from error
    if not folders:
        raise InputError("name a run or a comparison; `kdtool runs` lists them.")
    if out is None and len(folders) > 1:
        raise InputError(f"one page on {len(folders)} folders goes into none of them: say where, with -o PAGE.html.")
    path = Path(out) if out is not None else Path(folders[0]) / PAGE
    if path.is_dir() or (out is not None and not path.parent.is_dir()):
        raise InputError(f"-o {path}: name a file in a folder that exists, such as {PAGE}.")
    found = [gather(folder, say or (lambda _: None)) for folder in folders]
    title = str(folders[0]) if len(folders) == 1 else f"{len(folders)} runs and comparisons"
    write_whole(path, render(title, [each.chapter for each in found]))
    return {"page": str(path), "sections": [each.document for each in found]}
