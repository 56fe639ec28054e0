"""A section of BENCHMARKS.md, between the marks of the program that writes it."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "BENCHMARKS.md"


def write(begin: str, end: str, body: str) -> None:
    """Put a section of the page between its marks; a new one goes to the end."""
    text = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    PAGE.write_text(f"{text.split(begin)[0]}{begin}\n{body}{end}{text.split(end)[1]}")
