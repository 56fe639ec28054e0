"""What ``data.name`` may be, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from kdtool.errors import InputError
from kdtool.tasks.language.data.chats import Chat
from kdtool.tasks.language.data.open import read_data
from kdtool.tasks.language.data.read import read
from kdtool.tasks.language.options import Data
from tests.tasks.language.small import TASK, chats, recipe

ROWS: list[tuple[dict[str, Any], Any]] = [
    ({"prompt": "2 + 2 = ", "completion": "4"}, (("user", "2 + 2 = "), ("assistant", "4"))),
    ({"question": "How?", "answer": "So."}, (("user", "How?"), ("assistant", "So."))),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, (("user", "Add.\n\n1 2"), ("assistant", "3"))),
    ({"instruction": "Sing.", "input": "", "output": "La."}, (("user", "Sing."), ("assistant", "La."))),
    ({"instruction": "Sing.", "output": "La."}, (("user", "Sing."), ("assistant", "La."))),
    ({"text": "Once upon a time."}, "Once upon a time."),
    (
        {"messages": [{"role": r, "content": c} for r, c in (("system", "S"), ("user", "U"), ("assistant", "A"))]},
        (("system", "S"), ("user", "U"), ("assistant", "A")),
    ),
]


@pytest.mark.parametrize(
    ("cells", "wanted"), ROWS, ids=lambda each: " ".join(each)[:20] if isinstance(each, dict) else ""
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_say_what_samples_are(tmp_path: Path, kind: str, cells: dict[str, Any], wanted: Any) -> None:
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        path.write_text((json.dumps(cells) + "\n") * 9)
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([cells] * 9), path)
    raw = read_data(Data(name=str(path)))
    assert len(raw.samples) == 9
    found = raw.samples[0]
    assert (found if isinstance(found, str) else found.turns) == wanted


def test_paragraphs_of_a_text_file_are_samples(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("One\ntwo.\n\n \nThree.\n" + "\nMore.\n" * 7)
    assert read_data(Data(name=str(path))).samples[:3] == ["One\ntwo.", "Three.", "More."]


def test_a_folders_files_are_its_splits(tmp_path: Path) -> None:
    for name, count in (("train", 12), ("validation", 3), ("test", 5)):
        chats(tmp_path / f"{name}.jsonl", count)
    raw = read_data(Data(name=str(tmp_path)))
    assert {role: len(split.rows) for role, split in raw.splits.items() if split} == {"train": 12, "val": 3, "test": 5}


def test_the_built_in_data_needs_nothing_and_has_no_passage_twice() -> None:
    raw = read_data(Data())
    assert len(set(raw.samples)) == len(raw.samples) > 300
    assert {role for role, split in raw.splits.items() if split is not None and len(split)} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"messages": []}, "is no list of messages"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "no message of the assistant"),
        ({"messages": [{"content": "hi"}]}, "message 1 has no role"),
        ({"messages": [{"role": "assistant", "content": None}]}, "message 1 has no text"),
        ({"prompt": "hi", "completion": " "}, "'completion' is empty"),
        ({"question": 3, "answer": "x"}, "'question' is no text"),
        ({"sentence": "hi"}, "are none that are known.*messages; prompt and completion"),
    ],
)
def test_what_is_no_sample_is_refused(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=message):
        read_data(Data(name=str(path), max_bad=0.0))


def test_a_few_bad_lines_are_left_out_and_said(tmp_path: Path) -> None:
    path = chats(tmp_path / "data.jsonl", 30)
    path.write_text(path.read_text() + '{"messages": 3}\n')
    data = TASK.open(recipe(path, data__max_bad=0.1))
    assert "1 bad line of the data was left out" in (data.faults() or "")


def test_a_split_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    for name in ("train", "test"):
        chats(tmp_path / f"{name}.jsonl", 20)
    # All of the answer is cut off.
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y " * 90}]}) + "\n"
    )
    with pytest.raises(InputError, match="in the test split there is nothing to learn"):
        TASK.open(recipe(tmp_path, data__max_length=16))


def test_rows_are_the_tokens_that_are_learnt(tmp_path: Path) -> None:
    data = TASK.open(recipe(chats(tmp_path / "data.jsonl")))
    split = data.test
    assert split.offsets[-1] == len(split.labels)
    for position, row in enumerate(split.rows):
        ids, learnt = split.samples[row]
        own = split.labels[split.offsets[position] : split.offsets[position + 1]]
        assert own.tolist() == ids[learnt].tolist()
    few = split.take(np.array([3, 1]))
    assert few.labels.tolist() == [
        *split.labels[split.offsets[3] : split.offsets[4]], *split.labels[split.offsets[1] : split.offsets[2]],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"data__max_length": 48}, {"data__loss_on": "all"}, {"data__template": "plain"}, {"data__vocab_size": 310}],
)
def test_what_decides_tokens_decides_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    path = chats(tmp_path / "data.jsonl")
    assert TASK.open(recipe(path)).fingerprint != TASK.open(recipe(path, **change)).fingerprint


def test_pieces_of_one_text_are_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": f"Sample {i}. " * 60}) + "\n" for i in range(20)))
    data = TASK.open(recipe(path, data__max_length=16))
    sides = [set(split.samples.sources[split.rows]) for split in (data.train, data.val, data.test)]
    assert len(data.train) > 100
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]


@pytest.mark.parametrize("key", ["data__labels_per_class", "data__unlabelled", "data__sampler"])
def test_what_speaks_of_classes_is_refused(key: str) -> None:
    value = {"data__labels_per_class": 3, "data__unlabelled": "x.txt", "data__sampler": "class-uniform"}[key]
    with pytest.raises(InputError, match="have no classes"):
        recipe("pydocs", **{key: value})


def test_kinds_and_weights_are_read_where_the_data_tell_them(tmp_path: Path) -> None:
    turns, path = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], tmp_path / "x.jsonl"
    rows = [{"messages": turns, "kind": "label", "weight": 2}, {"messages": turns, "kind": 3, "weight": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = Chat((("user", "q"), ("assistant", "a")))
    assert read(path).samples == [Chat(plain.turns, kind="label", weight=2.0), plain]
    path.write_text(json.dumps({"messages": turns, "kind": "label", "weight": 0}) + "\n")
    assert "its 'weight' is no number above 0." in str(read(path).bad[0])
    path.write_text(json.dumps({"messages": turns, "weight": 0}) + "\n")  # no kinds: the column means something else
    assert read(path).samples == [plain]
