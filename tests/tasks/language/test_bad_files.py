"""Whatever a file holds, it opens or is refused with one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from kdtool.errors import InputError
from kdtool.tasks.language.data.chats import Chat, Writer
from kdtool.tasks.language.data.encode import tokenize
from kdtool.tasks.language.data.read import COLUMNS, read
from tests.tasks.language.small import tokens

WORDS = tokens()
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True, allow_subnormal=False), st.text(max_size=6)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3),
    ),
    max_leaves=8,
)
KEYS = sorted({name for names in COLUMNS for name in names})
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened_or_refused(path: Path) -> None:
    part, message = None, ""
    try:
        part = read(path)
    except InputError as error:
        message = str(error)
    if part is None:
        assert len(message.splitlines()) == 1
        return
    for bad in part.bad:
        assert str(bad)
    for sample in part.samples:
        assert isinstance(sample, (Chat, str))
    found, cuts = tokenize(part.samples, Writer(WORDS, "auto", "completion"), 32)
    assert len(found) + len(cuts.refused) + cuts.bare >= len(part.samples)
    assert not found.learnt[found.starts[:-1]].any()


@MANY
@given(content=st.binary(max_size=60), kind=st.sampled_from([".jsonl", ".txt", ".parquet"]))
def test_any_bytes(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / f"data{kind}"
    path.write_bytes(content)
    opened_or_refused(path)


@MANY
@given(rows=st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4), min_size=1, max_size=3))
def test_any_values(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened_or_refused(path)


@MANY
@given(turns=st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=8)), max_size=4))
def test_any_chat(tmp_path: Path, turns: list[tuple[str, str]]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n")
    opened_or_refused(path)
