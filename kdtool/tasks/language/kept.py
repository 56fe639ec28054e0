"""What a teacher wrote, kept for later runs: by teacher and sampling a file, in it by prompt a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdtool.randomness import key_of
from kdtool.system.disk import append_line
from kdtool.system.home import home
from kdtool.tasks.common.weights import digest

FILE = "answers.jsonl"


class Kept:
    """A teacher's answers by prompt, both in tokens. Lines are only ever added; half a line is none.

    Args:
        path: the file, which need not be there.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[tuple[int, ...], list[int]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                prompt, answer = json.loads(line)
                self.found.setdefault(tuple(prompt), answer)
            except (ValueError, TypeError):  # of a process that was killed
                continue

    @classmethod
    def of(cls, teacher: nn.Module, how: Sequence[Any]) -> Kept:
        """Open what a teacher wrote.

        Args:
            teacher: whose weights, in its arithmetic, tell it from others.
            how: plain values: what else its answers follow from, besides the prompts.
        """
        key = key_of(digest(teacher.state_dict()), json.dumps(list(how)))
        return cls(home() / "answers" / f"{key:016x}" / FILE)

    def __contains__(self, prompt: Sequence[int]) -> bool:
        return tuple(prompt) in self.found

    def __getitem__(self, prompt: Sequence[int]) -> list[int]:
        return self.found[tuple(prompt)]

    def add(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> None:
        """Keep answers to those of the prompts that have none."""
        new = {tuple(prompt): list(answer) for prompt, answer in zip(prompts, answers, strict=True)
               if prompt not in self}  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for prompt, answer in new.items():
            append_line(self.path, json.dumps([list(prompt), answer]))
            self.found[prompt] = answer
