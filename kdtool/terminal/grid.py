"""A table that fits the screen without breaking a word or a number: side by side where there is room, else turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        titles: of the columns.
        rows: of one text a column.
        left: so many columns stand flush left, the others flush right.
        title: above it.
        main: the row that stands out.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    title: str = ""
    main: int | None = None


def fitted(grid: Grid, width: int) -> RenderableType:
    """Return a table no wider than the screen: with lines, without them, turned, or a block a row.

    Args:
        grid: the table.
        width: columns of the screen.
    """
    columns = _widths(grid.titles, grid.rows)
    if sum(columns) + 3 * len(columns) + 1 <= width:
        return _boxed(grid)
    if (gap := _gap(columns, width)) is not None:
        return _titled(grid, _plain(grid.titles, grid.rows, grid.left, gap, grid.main))
    turned = [list(line) for line in zip(grid.titles, *grid.rows, strict=True)]
    if (gap := _gap(_widths(turned[0], turned[1:]), width)) is not None:
        return _titled(grid, _plain(turned[0], turned[1:], 1, gap, None))
    return _titled(grid, *_blocks(grid))


def wrapped(grid: Grid, prose: int, width: int) -> RenderableType:
    """Return a table whose last columns are prose, which is wrapped between words and never within one.

    Where that leaves prose too little room, it goes below the other columns, over the whole width.

    Args:
        grid: the table; all columns stand flush left.
        prose: how many of the last columns are prose.
        width: columns of the screen.
    """
    first = len(grid.titles) - prose
    columns = _widths(grid.titles, grid.rows)
    words = [" ".join(line[first:]).split() for line in (grid.titles, *grid.rows)]
    least = max(SMALLEST, *(cell_len(word) for line in words for word in line))
    if sum(columns[:first]) + least * prose + 3 * len(columns) + 1 > width:
        return _titled(grid, *_prose_below(grid, first, columns))
    table = Table(title=Text(grid.title) if grid.title else None, title_justify="left")
    for number, title in enumerate(grid.titles):
        table.add_column(Text(title), no_wrap=number < first, min_width=min(least, columns[number]))
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


SMALLEST = 20
"""Columns that prose needs to be read."""


def _prose_below(grid: Grid, first: int, columns: Sequence[int]) -> list[RenderableType]:
    """Return each row as a line of the columns before the prose, with the prose below it, indented."""
    found: list[RenderableType] = []
    for number, row in enumerate((grid.titles, *grid.rows)):
        style = "bold" if number == 0 else ""
        cells = (f"{cell:<{columns[place]}}" for place, cell in enumerate(row[:first]))
        found.append(Text("  ".join(cells).rstrip(), style=style, overflow="fold"))
        for text in filter(None, row[first:]):
            found.append(Padding(Text(text, style=style, overflow="fold"), (0, 0, 0, 2)))
    return found


def fits(grid: Grid, width: int) -> bool:
    """Tell whether a table fits a screen as it stands, without being turned."""
    return _gap(_widths(grid.titles, grid.rows), width) is not None


def _widths(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(titles, *rows, strict=True)]


def _width(cell: str) -> int:
    return max(map(cell_len, cell.split("\n")))


def _gap(columns: Sequence[int], width: int) -> int | None:
    """Return the widest gap with which columns fit, None where none does."""
    return next((gap for gap in (3, 2, 1) if sum(columns) + gap * (len(columns) - 1) <= width), None)


def _boxed(grid: Grid) -> Table:
    table = Table(title=Text(grid.title) if grid.title else None, title_justify="left")
    for number, title in enumerate(grid.titles):
        table.add_column(Text(title), justify="left" if number < grid.left else "right", no_wrap=True)
    for number, row in enumerate(grid.rows):
        table.add_row(*map(Text, row), style="bold" if number == grid.main else "")
    return table


def _plain(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int, gap: int, main: int | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(Text(title), justify="left" if number < left else "right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*map(Text, row), style="bold" if number == main else "")
    return table


def _blocks(grid: Grid) -> list[RenderableType]:
    """Return each row as lines of its own, a long name below its title."""
    found: list[RenderableType] = []
    longest = max(map(cell_len, grid.titles))
    for number, row in enumerate(grid.rows):
        style = "bold" if number == grid.main else ""
        for title, cell in zip(grid.titles, row, strict=True):
            if cell:
                found.append(Text(f"{title:<{longest}}  {cell}", style=style, overflow="fold"))
        found.append(Text())
    return found[:-1]


def _titled(grid: Grid, *parts: RenderableType) -> Group:
    return Group(*([Text(grid.title, style="italic")] if grid.title else []), *parts)
