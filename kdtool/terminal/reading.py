"""What ``kdtool bench --data FOLDER`` found, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from kdtool.terminal import words


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print the parts and loaders of a bench of reading."""
    from rich.console import Console
    from rich.text import Text

    from kdtool.terminal.grid import Grid, fitted
    from kdtool.terminal.table import width_for

    console = Console(file=stream, highlight=False, width=width_for(stream))
    about, files, machine = found["reading"], found["reading"]["files"], found["machine"]
    height, width = files["pixels"]
    title = (
        f"{words.clean(files['folder'])}: {files['used']:,} of {files['count']:,} images, {width}x{height}, "
        f"{words.size(round(files['bytes']))} each; to {about['image_size']}x{about['image_size']}"
    )
    rows = [
        [
            row["part"],
            row["by"],
            f"{row['images_per_s']:,.1f}",
            "" if row["mb_per_s"] is None else f"{row['mb_per_s']:,.1f}",
            ", ".join(f"{each['times']:.2f}x {name}" for name, each in row["against"].items()),
        ]
        for row in (*about["parts"], *about["loaders"])
    ]
    console.print(fitted(Grid(["part", "by", "images/s", "MB/s", "speed"], rows, 2, title), console.width))
    workers = about["workers"]
    loaders = f"{workers} worker{'s' * (workers != 1)}" if workers else "this process"
    console.print(
        Text(
            f"Parts alone, in one process; loaders in {loaders}, batches of {about['batch_size']}; to "
            f"{words.clean(about['device'])}. On {words.clean(machine['processor'])}, "
            f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}."
        )
    )
    console.print(
        Text(
            "file, decode, loader: MB/s of files; transfer: of pixels, copied, shifted, flipped and normalised. timm "
            "decodes with Pillow. Medians of rounds; intervals are in --json."
        )
    )
    for name, count in files["unreadable"].items():
        if count:
            console.print(Text(f"left out: {count} files that {name} cannot read"))
