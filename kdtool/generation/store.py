"""The answers that were paid for: appended one by one, on the disk before the next is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from kdtool.errors import from_os
from kdtool.generation.request import Answer, Request
from kdtool.system.disk import writing

FILE = "answers.jsonl"


class Store:
    """Answers by their requests' keys, in one file of a line each.

    Whoever holds the folder's lock opens it. A line that a killed process left half written is cut off; one that was
    damaged later is skipped, so that its request is asked for again.

    Args:
        folder: where the file is, or will be.

    Raises:
        RunError: it cannot be read.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.damaged = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._places: dict[str, tuple[int, int]] = {}
        self._size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise from_os(error) from error
        self._read()

    def __len__(self) -> int:
        """How many requests are settled."""
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        """Yield the keys, in the order in which they were answered."""
        return iter(self._places)

    def get(self, key: str) -> Answer | None:
        """Return an answer; None where the teacher refused to give one.

        Raises:
            KeyError: it was not asked for yet.
        """
        start, size = self._places[key]
        answer = self.record(start, size).get("answer")
        return Answer(**answer) if answer is not None else None

    def record(self, start: int, size: int) -> dict[str, Any]:
        """Return the line at a place of the file."""
        os.lseek(self._file, start, os.SEEK_SET)
        found: dict[str, Any] = json.loads(os.read(self._file, size))
        return found

    def add(self, request: Request, answer: Answer | None, why: str = "") -> None:
        """Append an answer, and return once it is on the disk.

        Args:
            request: what it is the answer to.
            answer: None: the teacher refused.
            why: what it said then.

        Raises:
            RunError: it cannot be written; the file is as it was.
        """
        record = {
            "key": request.key,
            "model": request.model,
            "messages": request.messages,
            "sampling": asdict(request.sampling),
            "number": request.number,
            **({"answer": asdict(answer)} if answer is not None else {"refused": why}),
        }
        data = json.dumps(record).encode() + b"\n"
        with writing(self.path, len(data)):
            try:
                os.lseek(self._file, self._size, os.SEEK_SET)
                left = memoryview(data)
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise
        self._note(request.key, self._size, len(data), answer)
        self._size += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _note(self, key: str, start: int, size: int, answer: Answer | None) -> None:
        if key not in self._places:
            self._places[key] = (start, size)
            if answer is not None:
                self.prompt_tokens += answer.prompt_tokens
                self.completion_tokens += answer.completion_tokens

    def _read(self) -> None:
        for found in lines_of(self.path):
            if isinstance(found, Line):
                self._note(found.key, self._size, found.size, found.answer)
            else:
                self.damaged += 1
            self._size += found if isinstance(found, int) else found.size
        os.ftruncate(self._file, self._size)


class Line(NamedTuple):
    """A line of the file: an answer by its request's key, None where it was refused, and how many bytes it has."""

    key: str
    answer: Answer | None
    size: int


def lines_of(path: Path) -> Iterator[Line | int]:
    """Yield a store's lines, of a damaged one its size alone; half a line at the end is none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return  # what was being written when its process ended
            try:
                found = json.loads(line)
                answer = Answer(**found["answer"]) if "refused" not in found else None
                key = found["key"]
                if not isinstance(key, str) or (answer is not None and not isinstance(answer.text, str)):
                    raise TypeError
                yield Line(key, answer, len(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                yield len(line)
