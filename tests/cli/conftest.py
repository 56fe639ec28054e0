"""Commands run in this process: importing torch takes seconds, and it is imported here anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kdtool.cli import cli


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def kdtool(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Return a function that runs ``kdtool`` with the given arguments."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            cli.main([str(argument) for argument in arguments], prog_name="kdtool")
        said = capsys.readouterr()
        return Answer(int(exited.value.code or 0), said.out, said.err)

    return call
