"""The page: templates filled with plain data. What is shown of it is escaped; the templates' own text alone is HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdtool import __version__
from kdtool.report.sections import Chapter, Chart, Figure, Section

_ROOM = "kdtool.report"

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is fetched: what the page needs is in it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render(title: str, chapters: Sequence[Chapter]) -> str:
    """Return the document.

    Args:
        title: of the page. A chapter on a folder of that name has no heading of its own, which would repeat it.
        chapters: in order.

    Raises:
        ValueError: a figure holds a number that is not finite.
    """
    figures: dict[str, Figure] = {}
    placed = [(chapter, [(_place(card, figures), card) for card in _drawn(chapter)]) for chapter in chapters]
    return _environment().get_template("page.html.j2").render(
        title=title,
        version=__version__,
        policy=_POLICY,
        style=_own("page.css"),
        chapters=placed,
        figures=figures,
        plotly=_plotly() if figures else "",
        script=_own("page.js"),
    )  # fmt: skip


def _drawn(chapter: Chapter) -> list[Section]:
    return [card for card in chapter.cards if not (isinstance(card, Chart) and card.figure is None)]


def _place(card: Section, figures: dict[str, Figure]) -> str:
    """Return where on the page a card's figure is drawn, and put it among ``figures``; "" for other cards."""
    if not isinstance(card, Chart) or card.figure is None:
        return ""
    name = f"figure-{len(figures) + 1}"
    figures[name] = card.figure
    return name


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_ROOM),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # and keys in the order of the columns
    return environment


def visible(value: Any) -> Any:
    """Return text with its control characters written out; what is HTML already, and what is no text, as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


def _own(name: str) -> Markup:
    """Return a file of this package that goes into the page as it is."""
    return Markup((resources.files(_ROOM) / name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())
