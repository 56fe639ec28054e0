"""New texts, as they come: lines of a file or a stream, or a column of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kdtool.errors import InputError
from kdtool.tasks.common.files.cells import Unfit, sound, text_of
from kdtool.tasks.common.files.kinds import KINDS, open_table
from kdtool.tasks.common.files.stream import blocks, decoded
from kdtool.tasks.common.files.tables import Table, shown
from kdtool.tasks.common.predicting import Item, in_chunks
from kdtool.tasks.text.data.columns import choose
from kdtool.tasks.text.models.tokens import Text

PAIR = "a pair of texts"


def chunks_of(file: str, stream: IO[bytes], pairs: bool, most: int) -> Iterator[list[Item]]:
    """Yield the lines of a stream in chunks; a pipe's as soon as they are there.

    Args:
        file: its name, "-" for standard input.
        stream: what to read.
        pairs: a line holds a pair of texts with a tab between them.
        most: lines at once.
    """
    number = 0
    for some in blocks(stream):
        items = []
        for line in some:
            number += 1
            if line is None or line.strip():
                items.append(_item(file, number, line, pairs))
        yield from in_chunks(items, most)


def _item(file: str, number: int, line: bytes | None, pairs: bool) -> Item:
    text, problem = decoded(line)
    if problem:
        return Item(file, number, text, problem=problem)
    fields = text.rstrip("\r").split("\t") if pairs else [text]
    if pairs and len(fields) != 2:
        return Item(file, number, text, problem=f"{PAIR} with one tab between them is wanted.")
    return item_of(file, number, fields)


def item_of(file: str, number: int, cells: Sequence[Any], columns: Sequence[str] = ()) -> Item:
    """Return a text, or a pair, as an item; one that no tokenizer takes has a problem.

    Args:
        file, number: where it is from.
        cells: one, or two.
        columns: their names, where they have some.
    """
    written = "\t".join("" if cell is None else str(cell) for cell in cells)
    try:
        if columns:
            texts = [text_of(cell, name) for cell, name in zip(cells, columns, strict=True)]
        elif not all(isinstance(cell, str) for cell in cells) or not 1 <= len(cells) <= 2:
            raise Unfit("it is neither a text nor a pair of texts.")
        else:
            texts = [sound(cell, "its text") for cell in cells]
    except Unfit as why:
        return Item(file, number, written.encode(errors="replace").decode(), problem=str(why))
    content: Text = texts[0] if len(texts) == 1 else (texts[0], texts[1])
    return Item(file, number, "\t".join(texts), content)


def chunks_of_table(table: Table, file: str, columns: Sequence[str], most: int, pairs: bool) -> Iterator[list[Item]]:
    """Yield the rows of a table in chunks.

    Args:
        table: what to read.
        file: its name.
        columns: of the text, or of a pair's; none: found by their names.
        most: rows at once.
        pairs: the network knows pairs alone.

    Raises:
        InputError: there is no such column, or the table cannot be read.
    """
    names = choose(table, columns, None, bare=True).text
    if pairs and len(names) != 2:
        raise InputError(
            f"{table.origin} would be read from {shown(names[0])}, and the network was trained on pairs "
            "of texts: data.text names the two columns."
        )

    def items() -> Iterator[Item]:
        for row in table.rows(names):
            if row.cells is None:
                yield Item(file, row.line, "", problem=row.why)
            else:
                yield item_of(file, row.line, row.cells, names)

    return in_chunks(items(), most)


def chunks_of_samples(samples: Iterable[Any], most: int, pairs: bool) -> Iterator[list[Item]]:
    """Yield texts, or pairs of them, that were given from Python; ``pairs``: the network knows pairs alone."""

    def item(number: int, cells: Sequence[Any]) -> Item:
        found = item_of("", number, cells)
        alone = pairs and not found.problem and len(cells) != 2
        return Item(found.file, number, found.shown, problem=f"{PAIR} is wanted.") if alone else found

    cells = (each if isinstance(each, (tuple, list)) else (each,) for each in samples)
    return in_chunks((item(number, some) for number, some in enumerate(cells, 1)), most)


def chunks_of_file(
    file: str, columns: Sequence[str], usual: Sequence[str], most: int, pairs: bool
) -> Iterator[list[Item]]:
    """Yield a file's texts in chunks: a table's by its column, any other's by lines.

    Args:
        file: its name, "-" for standard input.
        columns: of the text, as the user named them; none: they did not.
        usual: those of the network's own run.
        most: texts at once.
        pairs: the network knows pairs alone.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    two = pairs or len(columns or usual) == 2
    if file == "-":
        import sys

        return chunks_of(file, sys.stdin.buffer, two, most)
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(
            f"{file} is a folder; name a file of sentences, or - for standard input."
            if path.is_dir()
            else f"there is no file {file!r}; - is standard input."
        )
    if path.suffix.lower() in KINDS:
        table = open_table(path)
        there = set(usual) <= set(table.columns)
        return chunks_of_table(table, file, columns or (usual if there else ()), most, pairs)
    return _of_path(file, path, two, most)


def _of_path(file: str, path: Path, pairs: bool, most: int) -> Iterator[list[Item]]:
    with path.open("rb") as stream:
        yield from chunks_of(file, stream, pairs, most)
