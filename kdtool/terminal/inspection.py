"""What ``kdtool inspect`` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from kdtool.terminal import words
from kdtool.terminal.grid import Grid, fitted
from kdtool.terminal.table import width_for

_PIPE_WIDTH = 150
"""Columns in a file or a pipe: two networks beside each other."""

_BAR = 30
"""Letters of the longest bar."""


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print the networks, the pairs and the costs of a step."""
    console = Console(file=stream, highlight=False, width=width_for(stream) and _PIPE_WIDTH)
    console.print(Columns([fitted(_network(network), console.width) for network in found["networks"]]))
    for network in found["networks"]:
        if network["note"]:
            console.print(Text(f"{words.clean(network['name'])}: {words.clean(network['note'])}"), soft_wrap=True)
    if found["pairs"]:
        console.print(fitted(_pairs(found), console.width))
    elif not found["problem"]:
        console.print(Text(f"{words.clean(found['method'])} taps no layer: it reads logits alone."))
    if found["steps"]:
        console.print(fitted(_steps(found), console.width))
    if found["sample"]:
        console.print(_sample(found["sample"]), soft_wrap=True)
    if found["lengths"]:
        console.print(fitted(_lengths(found["lengths"]), console.width))
    for note in found["notes"]:
        console.print(Text(words.clean(note)), soft_wrap=True)
    if not found["problem"]:
        extra = found["method_params"]
        own = (
            f"the method's own parts have {words.count(extra)} parameters" if extra else "the method adds no parameters"
        )
        console.print(Text(f"Taps take {words.size(found['tap_bytes'])} for a batch of {found['batch_size']}; {own}."))


def _sample(pieces: Sequence[tuple[str, bool]]) -> Text:
    """Return a sample's text; what is learnt of it stands in brackets, and stands out."""
    text = Text("A training sample, with what is learnt of it in ⟦ ⟧:\n", style="dim")
    for piece, learnt in pieces:
        shown = "\n".join(map(words.clean, piece.split("\n")))
        text.append(f"⟦{shown}⟧" if learnt else shown, style="bold not dim" if learnt else "")
    return text


def _lengths(bands: Sequence[Mapping[str, int]]) -> Grid:
    most = max(band["samples"] for band in bands)
    rows = []
    for band in bands:
        bar = "█" * -(-_BAR * band["samples"] // most)
        rows.append([f"{band['from']} to {band['to']}", str(band["samples"]), bar])
    return Grid(["tokens", "samples", ""], rows, 3, "Lengths of training samples")


def _network(network: Mapping[str, Any]) -> Grid:
    at = f" at {network['input']}" if network["input"] else ""
    title = (
        f"{network['part']} {words.clean(network['name'])}\n{words.count(network['params'])} parameters, "
        f"{words.count(network['macs'])} MACs{at}"
    )
    rows = []
    for row in network["stages"]:
        cells = [str(row["stage"]), words.clean(row["module"] or ""), _shape(row["shape"])]
        cells += [str(row["stride"] or "")]
        rows.append([*cells, words.count(row["params"]), words.count(row["macs"])])
    return Grid(["stage", "output of", "shape", "stride", "params", "MACs"], rows, 3, title)


def _pairs(found: Mapping[str, Any]) -> Grid:
    several = len({pair["teacher_number"] for pair in found["pairs"]}) > 1
    rows = []
    for pair in found["pairs"]:
        role = f"{pair['role']} (teacher {pair['teacher_number'] + 1})" if several else pair["role"]
        cells = [words.clean(role)]
        for side in ("student", "teacher"):
            tap = pair[side]
            cells += [words.clean(tap["layer"]), _shape(tap["shape"])] if tap else ["-", ""]
        rows.append(cells)
    titles = ["role", "student's layer", "shape", "teacher's layer", "shape"]
    return Grid(titles, rows, 5, f"what {words.clean(found['method'])} taps")


def _steps(found: Mapping[str, Any]) -> Grid:
    title = f"a step of {found['batch_size']} {words.clean(found['unit'])}, in MACs"
    rows = []
    for row in found["steps"]:
        aligned = [f"{each['operation']} {_shape(each['from'])} to {_shape(each['to'])}" for each in row["alignments"]]
        costs = [words.count(row["macs"][name]) for name in ("teacher", "student", "method", "backward")]
        cells = [words.clean(row["stage"]), words.clean(", ".join(row["terms"])), "\n".join(aligned) or "-", *costs]
        rows.append(cells)
    return Grid(["stage", "terms", "aligned by", "teacher", "student", "method", "backward"], rows, 3, title)


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) if shape else ""
