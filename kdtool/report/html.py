"""The page: sections of HTML around the figures. All text that is not this file's own is escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from kdtool import __version__
from kdtool.report.charts import Figure

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is fetched: what the page needs is in it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Page:
    """Sections in order, and the figures in them."""

    def __init__(self, title: str):
        self.title = title
        self.parts: list[str] = []
        self.figures: dict[str, Figure] = {}

    def head(self, folder: str) -> None:
        """Begin a section; its title would repeat the page's own where it is the only one."""
        if folder != self.title:
            self.add(f"<h2>{escape(folder)}</h2>")

    def add(self, *parts: str) -> None:
        self.parts += parts

    def card(self, title: str, figure: Figure | None, about: str = "", wide: bool = False) -> str:
        """Return a card with a figure; "" without one."""
        if figure is None:
            return ""
        name = f"figure-{len(self.figures) + 1}"
        self.figures[name] = figure
        holder = f'<div class="plot" id="{name}" style="height:{figure["height"]}px"></div>'
        return box(title, (soft(about) if about else "") + holder, wide)

    def write(self) -> str:
        """Return the document."""
        from plotly.offline import get_plotlyjs

        folder = resources.files("kdtool.report")
        style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        figures = json.dumps(self.figures, allow_nan=False).replace("<", "\\u003c")
        drawing = (
            f'<script id="figures" type="application/json">{figures}</script>'
            f"<script>{get_plotlyjs()}</script><script>{script}</script>"
            if self.figures
            else ""
        )
        title = escape(self.title)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>'
            f"<header><h1>{title}</h1></header><main>{''.join(self.parts)}</main>"
            f"<footer>Made by kdtool {escape(__version__)}.</footer>{drawing}</body></html>\n"
        )


def escape(value: object) -> str:
    """Return text as HTML shows it, letter by letter."""
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))
    return html.escape(text, quote=True)


def soft(sentence: str) -> str:
    """Return a sentence (text, not HTML) in small grey."""
    return f'<p class="soft">{escape(sentence)}</p>'


def box(title: str, content: str, wide: bool = False) -> str:
    """Return a card; ``content`` is HTML."""
    return f'<section class="card{" wide" * wide}"><h3>{escape(title)}</h3>{content}</section>'


def grid(cards: Iterable[str]) -> str:
    """Return cards side by side where there is room."""
    return f'<div class="grid">{"".join(cards)}</div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return figures in large type: (what, figure)."""
    each = (f'<div class="fact"><span class="soft">{escape(a)}</span><b>{escape(b)}</b></div>' for a, b in pairs)
    return f'<div class="facts">{"".join(each)}</div>'


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: int, main: int | None = None) -> str:
    """Return a table of texts.

    Args:
        titles: of the columns.
        rows: texts.
        numbers: from which column on texts stand flush right.
        main: the row that stands out.
    """
    kind = ['class="n"' if i >= numbers else "" for i in range(len(titles))]
    head = "".join(f"<th {k}>{escape(t)}</th>" for k, t in zip(kind, titles, strict=True))
    lines = (
        f"<tr{' class=main' * (n == main)}>"
        + "".join(f"<td {k}>{escape(cell)}</td>" for k, cell in zip(kind, row, strict=True))
        + "</tr>"
        for n, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def samples(found: Sequence[Mapping[str, Any]]) -> str:
    """Return images with what the networks take them for."""
    return f'<div class="samples">{"".join(map(_sample, found))}</div>'


def _sample(found: Mapping[str, Any]) -> str:
    label = escape(found["label"])
    each = "".join(
        f'<p class="soft">{escape(one["part"])}, T = {one["temperature"]:g}</p>'
        + "".join(_bar(one["part"], row["class"], row["p"]) for row in one["top"])
        for one in found["networks"]
    )
    image = f'<img alt="a test image of {label}" src="data:image/png;base64,{found["png"]}">'
    return f'<div class="sample">{image}<div><b>{label}</b>{each}</div></div>'


def _bar(part: str, name: str, p: float) -> str:
    return (
        f'<div class="bar {escape(part)}"><span title="{escape(name)}">{escape(name)}</span>'
        f'<i style="width:{max(1, round(100 * p))}%"></i><u>{100 * p:.1f} %</u></div>'
    )
