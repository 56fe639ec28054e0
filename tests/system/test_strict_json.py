"""No document holds a NaN."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import kdtool
from kdtool.system import strict_json


def test_what_is_not_finite_is_null_and_the_rest_is_as_json_has_it() -> None:
    value = {"a": [1.5, float("nan"), (float("inf"), "NaN")], "b": None, "c": {"d": -float("inf")}, "e": True}
    text = strict_json.dumps(value, indent=2)
    assert json.loads(text) == {"a": [1.5, None, [None, "NaN"]], "b": None, "c": {"d": None}, "e": True}
    plain = {"z": 1, "ä": [0.1, "x"]}
    assert strict_json.dumps(plain, ensure_ascii=False) == json.dumps(plain, ensure_ascii=False)


def test_commands_print_no_other_json() -> None:
    for path in (Path(kdtool.__file__).parent / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("dumps", "dump"):
                assert isinstance(node.value, ast.Name)
                assert node.value.id != "json", f"{path.name} prints JSON that may hold NaN"
