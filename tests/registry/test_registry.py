"""Finding methods among installed distributions, good and bad."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdtool import registry
from kdtool.errors import InputError, KdtoolError

GOOD = """
from dataclasses import dataclass
from kdtool import Method, option
class Good(Method):
    api = 1
    @dataclass
    class Config:
        weight: float = option(1.0, "a weight", min=0.0)
"""

Install = Callable[..., None]


def entry(name: str) -> registry.Entry:
    (found,) = [each for each in registry.entries() if each.name == name]
    return found


def test_built_in_methods_come_from_the_same_group() -> None:
    assert {"kd", "fitnets"} <= set(registry.names())
    assert entry("kd").distribution == "kdtool"
    assert registry.get("kd").paper
    assert registry.NONE not in registry.names()


def test_a_strangers_method_is_found_and_loaded_once(install: Install) -> None:
    install("stranger", {"good": "stranger_good:Good"}, version="2.5", stranger_good=GOOD)
    found = entry("good")
    assert (found.distribution, found.version, found.error) == ("stranger", "2.5", None)
    assert registry.get("good") is registry.get("good")


def test_listing_does_not_import_plugins(install: Install) -> None:
    install("stranger", {"good": "stranger_lazy:Good"}, stranger_lazy="raise SystemExit('imported')")
    assert "good" in registry.names()


def test_the_default_method_is_one_that_kdtool_ships() -> None:
    assert entry(registry.default()).distribution == "kdtool"


def test_unknown_method_names_the_nearest_and_the_listing() -> None:
    with pytest.raises(InputError, match=r"(?s)'fitnet'.*'fitnets'.*kdtool list-methods"):
        registry.get("fitnet")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('no module named frobnicate')", ["cannot be imported", "frobnicate"]),
        ("import sys; sys.exit(3)", ["cannot be imported", "SystemExit"]),
        ("Good = 3", ["3, not a subclass"]),
        ("class Good: api = 1", ["not a subclass of kdtool.Method"]),
        ("other = 1", ["cannot be imported", "Good"]),
        (GOOD.replace("@dataclass\n", "\n"), ["Config", "dataclass"]),
        (GOOD.replace("weight: float = option(1.0", "weight: complex = option(1.0"), ["Config that cannot be read"]),
        (GOOD.replace(' = option(1.0, "a weight", min=0.0)', ""), ["weight has no default"]),
        (GOOD + "    knowledge = 'wisdom'", ["wisdom", "response, feature, relation"]),
        (GOOD + "    batch = 'half'", ["half", "sample, global"]),
        (GOOD + "    teachers = (2, 1)", ["(2, 1)"]),
    ],
)
def test_a_broken_plugin_stays_listed_and_breaks_nothing_else(install: Install, source: str, words: list[str]) -> None:
    install("broken-one", {"good": "broken_module:Good"}, version="0.9", broken_module=source)
    error = entry("good").error
    assert error is not None
    assert all(word in error for word in ["'good'", "broken-one 0.9", *words])
    assert entry("kd").error is None
    with pytest.raises(KdtoolError):
        registry.get("good")


@pytest.mark.parametrize(("line", "given"), [("api = 2", "version 2"), ("pass", "version None")])
def test_another_contract_version_is_refused_naming_both_and_the_distribution(
    install: Install, line: str, given: str
) -> None:
    install("from-later", {"good": "later_module:Good"}, version="7.0", later_module=GOOD.replace("api = 1", line))
    with pytest.raises(InputError, match=rf"from-later 7\.0.*{given}.*version 1"):
        registry.get("good")


def test_two_distributions_with_one_name_are_an_error_that_names_both(install: Install) -> None:
    install("first-dist", {"twin": "twin_a:Good"}, twin_a=GOOD)
    install("second-dist", {"twin": "twin_b:Good"}, twin_b=GOOD)
    with pytest.raises(InputError, match=r"first-dist 1\.0 and second-dist 1\.0"):
        registry.get("twin")
    rows = [each for each in registry.entries() if each.name == "twin"]
    assert [row.distribution for row in rows] == ["first-dist", "second-dist"]
    assert all("second-dist" in (row.error or "") for row in rows)
    assert registry.get("kd")


def test_plugins_can_be_limited_to_some_distributions(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("first-dist", {"twin": "twin_c:Good"}, twin_c=GOOD)
    install("second-dist", {"twin": "twin_d:Good"}, twin_d=GOOD)
    monkeypatch.setenv("KDTOOL_PLUGINS", "other, First_Dist")
    registry.entries.cache_clear()
    assert entry("twin").distribution == "first-dist"
    assert registry.get("kd")
    monkeypatch.setenv("KDTOOL_PLUGINS", "")
    registry.entries.cache_clear()
    assert "twin" not in registry.names()


@pytest.mark.parametrize("name", ["train", "teacher", "options", "cache", "track", "none", "method"])
def test_a_method_may_not_take_a_name_of_the_cores(install: Install, name: str) -> None:
    install("greedy", {name: "greedy_module:Good"}, greedy_module=GOOD)
    assert f"greedy 1.0 calls a method {name!r}" in (entry(name).error or "")


@pytest.mark.parametrize("name", ["Upper", "with-dash", "a+b", "1st", "a.b"])
def test_a_method_is_called_so_that_it_can_be_a_key(install: Install, name: str) -> None:
    install("odd", {name: "odd_module:Good"}, odd_module=GOOD)
    assert "lower-case" in (entry(name).error or "")
