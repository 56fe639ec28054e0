"""``kdtool list-methods`` and ``kdtool show``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from kdtool import registry
from tests.cli.conftest import Answer

Kdtool = Callable[..., Answer]

PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Optional
from kdtool import Method, Taps, option
@dataclass
class Branch:
    depth: int = option(1, "how deep", min=1, max=4)
class Fancy(Method):
    \"\"\"Does this
    and [bold]that[/bold].

    More of it.\"\"\"
    api = 1
    paper = "Somebody et al., On [red]Markup[/red], 2020"
    year = 2020
    url = "https://example.org/paper"
    equation = "a + b"
    knowledge = "relation"
    teachers = (1, None)
    batch = "global"
    hard_labels = True
    @dataclass
    class Config:
        weight: float = option(1.5, "a weight", min=0.0)
        mode: str = option("sum", "how", choices=("sum", "mean"))
        maybe: Optional[int] = option(None, "perhaps")
        inner: Branch = option(Branch, "one branch")
        branches: list[Branch] = option([], "side branches")
    @classmethod
    def taps(cls, cfg):
        return Taps(student={"deep": -1, "many": [0, 0.5]}, teacher={"name": "embedding"})
"""


def test_the_list_as_json(kdtool: Kdtool) -> None:
    answer = kdtool("list-methods", "--json")
    assert (answer.code, answer.err) == (0, "")
    methods = {each["name"]: each for each in json.loads(answer.out)}
    assert {"none", *registry.names()} == set(methods)
    assert methods["fitnets"] == {
        "name": "fitnets",
        "paper": methods["fitnets"]["paper"],
        "year": 2015,
        "knowledge": "feature",
        "scheme": "offline",
        "distribution": "kdtool",
        "version": methods["kd"]["version"],
        "error": None,
    }


def test_the_list_as_text(kdtool: Kdtool, install: Callable[..., None]) -> None:
    install("fancy-dist", {"fancy": "fancy_listed:Fancy"}, version="3.1", fancy_listed=PLUGIN)
    install("broken-dist", {"wrecked": "wrecked_module:X"}, wrecked_module="import frobnicate")
    answer = kdtool("list-methods")
    assert answer.code == 0
    lines = [line.rstrip() for line in answer.out.splitlines()]
    assert max(map(len, lines)) <= 80
    groups: dict[str, list[str]] = {}
    for line in lines:
        if line and line[0] != " ":
            name = line.split(" ")[0]
            groups.setdefault(name, []) if name.endswith(":") or name in ("without", "cannot") else groups[
                list(groups)[-1]
            ].append(name)
    assert list(groups) == ["response:", "feature:", "relation:", "without", "cannot"]
    assert "kd" in groups["response:"]
    assert "fitnets" in groups["feature:"]
    assert "fancy" in groups["relation:"]
    assert (groups["without"], groups["cannot"]) == (["none"], ["wrecked"])
    fancy = next(line for line in lines if line.startswith("fancy"))
    assert all(words in fancy for words in ("2020", "offline", "On [red]Markup[/red] (fancy-dist 3.1)"))
    assert "broken: " in answer.out
    assert "frobnicate" in answer.out


def test_which_methods_suit_a_pair(kdtool: Kdtool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [entry for entry in registry.entries() if entry.name in ("kd", "catkd", "sskd", "byot", "simkd")]
    monkeypatch.setattr(registry, "entries", lambda: tuple(kept))
    found = {each["name"]: each for each in json.loads(
        kdtool("list-methods", "--json", "--task", "text", "--for", "bilstm", "textcnn").out)}  # fmt: skip
    assert {name for name, each in found.items() if each["runs"]} == {"kd", "byot", "simkd"}
    assert "classifier takes 400 channels" in found["catkd"]["why"]
    assert "it has: strong" in found["sskd"]["why"]
    text = kdtool("list-methods", "--task", "text", "--for", "bilstm", "textcnn").out
    assert "can run on this pair\nbyot, kd, simkd" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert kdtool("list-methods", "--task", "text").code == 2
    assert kdtool("list-methods", "--for", "nosuchnet", "resnet18").code == 2


def test_show_as_json_holds_every_option(kdtool: Kdtool, install: Callable[..., None]) -> None:
    install("fancy-dist", {"fancy": "fancy_shown:Fancy"}, version="3.1", fancy_shown=PLUGIN)
    about = json.loads(kdtool("show", "fancy", "--json").out)
    assert about["summary"] == "Does this and [bold]that[/bold]."
    assert about["taps"] == {"student": {"deep": -1, "many": [0, 0.5]}, "teacher": {"name": "embedding"}}
    assert (about["teachers"], about["batch"], about["hard_labels"]) == ([1, None], "global", True)
    options = {each["name"]: each for each in about["options"]}
    assert list(options) == [
        *("fancy.weight", "fancy.mode", "fancy.maybe", "fancy.inner.depth", "fancy.branches", "fancy.branches.N.depth")
    ]
    assert options["fancy.weight"] == {
        "name": "fancy.weight", "type": "a number", "default": 1.5, "range": "at least 0", "help": "a weight",
    }  # fmt: skip
    assert options["fancy.mode"]["range"] == "one of sum, mean"
    assert options["fancy.maybe"]["type"] == "a whole number or null"


def test_show_as_text(kdtool: Kdtool, install: Callable[..., None]) -> None:
    install("fancy-dist", {"fancy": "fancy_text:Fancy"}, version="3.1", fancy_text=PLUGIN)
    answer = kdtool("show", "fancy")
    assert answer.code == 0
    for words in (
        "fancy  (fancy-dist 3.1)",
        "Does this and [bold]that[/bold].",
        "On [red]Markup[/red]",
        "https://example.org/paper",
        "a + b",
        "1 or more",
        "micro-batches take two passes",
        "no mixup",
        "student: deep at stage -1, many at stage 0 and relative depth 0.5; teacher: name at embedding",
        "fancy.branches.N.depth",
        "from 1 to 4",
    ):
        assert words in answer.out, words


@pytest.mark.parametrize("name", [registry.NONE, *registry.names()])
def test_every_method_can_be_shown(kdtool: Kdtool, name: str) -> None:
    answer = kdtool("show", name)
    assert (answer.code, answer.err) == (0, "")
    about = json.loads(kdtool("show", name, "--json").out)
    assert about["name"] == name
    assert all(option["help"] for option in about["options"])
    assert name == registry.NONE or (about["paper"] and about["url"] and about["equation"] and about["year"])


def test_showing_what_is_not_there(kdtool: Kdtool) -> None:
    answer = kdtool("show", "fitnet")
    assert (answer.code, answer.out) == (2, "")
    assert "'fitnets'" in answer.err


def test_showing_a_broken_method_is_the_plugins_fault(kdtool: Kdtool, install: Callable[..., None]) -> None:
    install("broken-dist", {"wrecked": "wrecked_shown:X"}, wrecked_shown="import frobnicate")
    answer = kdtool("show", "wrecked")
    assert answer.code == 1
    assert "broken-dist 1.0" in answer.err
    assert "Traceback" not in answer.err
    assert "Traceback" in kdtool("show", "wrecked", "--debug").err
