"""``kdtool check``: the conformance kit on an installed method."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from kdtool import testing
from kdtool.testing import CHECKS, Check, CheckError
from tests.cli.conftest import Answer

Kdtool = Callable[..., Answer]


def passes(bench: object) -> None:
    print("chatter of a plugin")


def fails(bench: object) -> None:
    raise CheckError("it does [bold]not[/bold] hold; mend it so")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces the kit's checks."""

    def use(*replaced: Check) -> None:
        monkeypatch.setattr(testing.kit, "CHECKS", replaced)

    return use


SOUND = Check("one", "the first promise", passes)
BROKEN = Check("two", "the second promise", fails)
LONG = Check("three", "the long one", passes, slow=True)
ABSENT = Check("four", "the fourth promise", fails, unless=lambda cls: "it has no such thing")


def test_a_sound_method_passes(kdtool: Kdtool, checks: Callable[..., None]) -> None:
    checks(SOUND, LONG, ABSENT)
    answer = kdtool("check", "kd")
    assert answer.code == 0
    assert "kd: all 1 checks passed" in answer.out
    assert "it has no such thing" in answer.out
    assert "the long one" not in answer.out
    assert "chatter" not in answer.out
    assert "all 2 checks passed" in kdtool("check", "kd", "--slow").out


def test_a_failure_is_shown_with_its_reason(kdtool: Kdtool, checks: Callable[..., None]) -> None:
    checks(SOUND, BROKEN)
    answer = kdtool("check", "kd")
    assert answer.code == 1
    assert "it does [bold]not[/bold] hold; mend it so" in " ".join(answer.out.split())
    assert "kd: 1 of 2 checks failed" in answer.out


def test_the_engine_alone_is_no_method_to_check(kdtool: Kdtool) -> None:
    answer = kdtool("check", "none")
    assert answer.code == 2
    assert "nothing to check" in answer.err


def test_json(kdtool: Kdtool, checks: Callable[..., None]) -> None:
    checks(SOUND, BROKEN, ABSENT)
    answer = kdtool("check", "kd", "--json")
    assert answer.code == 1
    report = json.loads(answer.out)
    assert (report["method"], report["passed"]) == ("kd", False)
    found = {check["check"]: check["result"] for check in report["checks"]}
    assert found == {"one": "pass", "two": "fail", "four": "skip"}
    assert report["checks"][1]["reason"].startswith("it does")


def test_an_unknown_method_is_bad_input(kdtool: Kdtool) -> None:
    answer = kdtool("check", "fitnet")
    assert answer.code == 2
    assert "'fitnets'" in answer.err


def test_names_are_unique() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
