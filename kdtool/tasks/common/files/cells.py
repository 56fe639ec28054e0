"""Texts in a table's cells, and what is wrong with one."""

from __future__ import annotations

from typing import Any

from kdtool.tasks.common.files.lines import NUL
from kdtool.tasks.common.files.tables import shown


class Unfit(Exception):
    """A cell that cannot be used; says why."""


def text_of(cell: Any, column: str) -> str:
    """Return the text in a cell, without the white space around it.

    Raises:
        Unfit: it is no text, or one that no tokenizer takes.
    """
    if cell is None:
        raise Unfit(f"its {shown(column)} is empty.")
    if not isinstance(cell, str):
        raise Unfit(f"its {shown(column)} is no text.")
    return sound(cell, f"its {shown(column)}")


def sound(text: str, what: str) -> str:
    """Return a text without the white space around it.

    Raises:
        Unfit: nothing is left, or it holds what no tokenizer takes.
    """
    text = text.strip()
    if not text:
        raise Unfit(f"{what} is empty.")
    if "\0" in text:
        raise Unfit(NUL)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Unfit(f"{what} holds half a character (a lone surrogate).") from error
    return text
