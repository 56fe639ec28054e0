"""What is known of the installed methods, as data and as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, get_type_hints

from kdtool import __version__, registry
from kdtool.recipe.sections import describe, list_item, range_text, section_of, to_plain
from kdtool.terminal import words
from kdtool.terminal.grid import Grid, wrapped

_NONE = {
    "name": registry.NONE,
    "paper": "hard labels only",
    "year": None,
    "knowledge": None,
    "scheme": None,
    "distribution": "kdtool",
    "version": __version__,
    "error": None,
}
"""The run without a method, listed among them because ``--method`` takes it."""


def listing() -> list[dict[str, Any]]:
    """Return every method (``none`` first) with name, paper, year, knowledge, scheme, distribution, version, error."""
    found = [dict(_NONE)]
    for entry in registry.entries():
        about: dict[str, Any] = dict.fromkeys(_NONE)
        about.update(name=entry.name, distribution=entry.distribution, version=entry.version, error=entry.error)
        if entry.error is None:
            method = entry.load()
            about.update(
                paper=method.paper, year=method.year or None, knowledge=method.knowledge, scheme=method.scheme()
            )
        found.append(about)
    return found


def details(name: str) -> dict[str, Any]:
    """Return what there is to know of one method.

    Returns:
        name, distribution, version, paper, year, url, equation, knowledge, scheme, summary, teachers ([smallest,
        largest or None]), batch ("sample" or "global"), hard_labels, taps ({"student": {role: layers}, "teacher":
        ...} for the default options) and options (a list of {"name", "type", "default", "range", "help"}).

    Raises:
        InputError: there is no such method.
        PluginError: its plugin is broken.
    """
    if name == registry.NONE:
        return {**_NONE, "summary": "The engine without a method.", "teachers": [0, 0], "options": [], "taps": {}}
    method = registry.get(name)
    entry = next(entry for entry in registry.entries() if entry.name == name)
    taps = method.taps(method.Config())
    return {
        "name": name,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": " ".join((method.__doc__ or "").split("\n\n")[0].split()),
        "paper": method.paper,
        "year": method.year or None,
        "url": method.url,
        "equation": method.equation,
        "knowledge": method.knowledge,
        "scheme": method.scheme(),
        "teachers": list(method.teachers),
        "batch": method.batch,
        "hard_labels": method.hard_labels,
        "taps": {"student": to_plain(taps.student), "teacher": to_plain(taps.teacher)},
        "options": list(option_lines(method.Config, name)),
    }


def option_lines(cls: type, path: str) -> Iterator[dict[str, Any]]:
    """Yield name, type, default, range and help of every option of a section; nested sections by their dotted keys."""
    hints = get_type_hints(cls)
    default = cls()
    for field in dataclasses.fields(cls):
        name, hint, value = f"{path}.{field.name}", hints[field.name], getattr(default, field.name)
        nested, listed = section_of(hint), section_of(list_item(hint))
        if nested is not None and value is not None:
            yield from option_lines(nested, name)
            continue
        yield {
            "name": name,
            "type": describe(hint),
            "default": to_plain(value),
            "range": range_text(field),
            "help": field.metadata.get("help", ""),
        }
        if listed is not None:
            yield from option_lines(listed, f"{name}.N")


NARROW = 80
"""Columns of the list, so that it can be read in any terminal, and pasted."""

KINDS = {
    "response": "response: what networks answer",
    "feature": "feature: what is inside of them",
    "relation": "relation: how samples, or layers, stand to one another",
}


def show_list(stream: TextIO) -> None:
    """Print the methods, grouped by the knowledge that they transfer, within 80 columns; broken ones last."""
    found = listing()
    groups = {title: [each for each in found if each["knowledge"] == kind] for kind, title in KINDS.items()}
    groups["without a teacher's knowledge"] = [each for each in found if not each["knowledge"] and not each["error"]]
    groups["cannot be used"] = [each for each in found if each["error"]]
    for title, methods in groups.items():
        if methods:
            _show_rows(title, [_list_row(about) for about in methods], stream)


def _list_row(about: dict[str, Any]) -> tuple[str, ...]:
    origin = "" if about["distribution"] == "kdtool" else f" ({about['distribution']} {about['version']})"
    if about["error"]:
        return about["name"], "", "", f"broken: {about['error']}{origin}"
    paper = str(about["paper"] or "-").removesuffix(f", {about['year']}")
    return about["name"], str(about["year"] or ""), about["scheme"] or "", paper + origin


def show_suitable(found: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Print which methods can run on a pair, and why others cannot, within 80 columns."""
    for title, runs in (("can run on this pair", True), ("cannot", False)):
        chosen = [each for each in found if each["runs"] == runs]
        rows: list[tuple[str, ...]] = [(each["name"], each["why"]) for each in chosen]
        if chosen:
            _show_rows(title, [(", ".join(each["name"] for each in chosen),)] if runs else rows, stream)


def _show_rows(title: str, rows: Sequence[tuple[str, ...]], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False, width=NARROW)
    console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=True)
    last = len(rows[0]) - 1
    for number in range(last + 1):
        table.add_column(no_wrap=number < last, overflow="fold", ratio=1 if number == last else None)
    for row in rows:
        table.add_row(*(Text(words.clean(cell)) for cell in row))
    console.print(table)
    console.print()


def show_method(name: str, stream: TextIO) -> None:
    """Print what there is to know of one method."""
    from rich.table import Table
    from rich.text import Text

    about = details(name)
    console = _console(stream)
    head = Table.grid(padding=(0, 2))
    for title, text in _head_lines(about):
        head.add_row(Text(title, style="bold"), Text(words.clean(text)))
    console.print(head)
    if not about["options"]:
        console.print(Text("No options."))
        return
    rows = []
    for option in about["options"]:
        kind = ", ".join(text for text in (option["type"], option["range"]) if text)
        cells = (option["name"], _default_text(option["default"]), kind, option["help"])
        rows.append([words.clean(cell) for cell in cells])
    title = "options (KEY=VALUE on the command line, or in a recipe)"
    console.print(wrapped(Grid(("option", "default", "type", "help"), rows, title=title), 2, console.width))


def _head_lines(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "method", f"{about['name']}  ({about['distribution']} {about['version']})"
    yield "what", about["summary"]
    for key in ("paper", "url", "equation"):
        if about.get(key):
            yield key, about[key]
    if about["knowledge"]:
        yield "kind", f"{about['knowledge']}, {about['scheme']}"
        yield "teachers", _teachers_text(*about["teachers"])
        yield "batch", _BATCH[about["batch"]]
        if about["hard_labels"]:
            yield "labels", "one class a sample: no mixup, no cutmix"
        yield "taps", _taps_text(about["taps"])


_BATCH = {
    "sample": "each sample on its own: any batch size",
    "global": "relates the samples of a whole batch: its size matters, and micro-batches take two passes",
}


def _teachers_text(low: int, high: int | None) -> str:
    if high == 0:
        return "none (the student teaches itself)"
    return str(low) if low == high else f"{low} or more" if high is None else f"{low} to {high}"


def _taps_text(taps: dict[str, Any]) -> str:
    sides = [
        f"{side}: " + ", ".join(f"{role} at {_layers_text(layers)}" for role, layers in roles.items())
        for side, roles in taps.items()
        if roles
    ]
    return "; ".join(sides) or "the logits only"


def _layers_text(layers: Any) -> str:
    if isinstance(layers, list):
        return " and ".join(_layers_text(each) for each in layers)
    if isinstance(layers, float):
        return f"relative depth {layers:g}"
    return f"stage {layers}" if isinstance(layers, int) else str(layers)


def _default_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _console(stream: TextIO) -> Any:
    from rich.console import Console

    from kdtool.terminal.table import width_for

    return Console(file=stream, highlight=False, width=width_for(stream))
