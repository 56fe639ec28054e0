"""Opening texts: what is found, what is held out, how columns and classes are named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.options import Data
from tests.tasks.text.data.files import ROWS, write

KINDS = (".tsv", ".csv", ".jsonl", ".parquet")


def opened(path: Path, **keys: Any) -> TextData:
    return open_data(Data(name=str(path), **keys))


def samples(data: TextData, split: HeldSplit | None) -> list[tuple[Any, str]]:
    assert split is not None
    names = [*data.class_names, "none"]
    return [
        (split.samples[row], names[label])
        for row, label in zip(split.rows.tolist(), split.labels.tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_kind_is_split_in_three(tmp_path: Path, kind: str) -> None:
    data = opened(write(tmp_path / f"all{kind}"))
    assert data.class_names == ["0", "1"]
    assert (len(data.train), len(data.val or []), len(data.test)) == (28, 4, 8)
    found = samples(data, data.train) + samples(data, data.val) + samples(data, data.test)
    assert sorted(found) == sorted(ROWS)
    assert data.train.samples is data.test.samples is data.texts
    for split in (data.train, data.test):
        assert split.labels.dtype == split.rows.dtype == np.int64
    assert data.stream is data.faults() is None
    assert data.notes == []


def test_the_same_content_has_the_same_fingerprint_wherever_and_however_it_is_written(tmp_path: Path) -> None:
    prints = {opened(write(tmp_path / f"{kind[1:]}" / f"x{kind}")).fingerprint for kind in KINDS}
    assert len(prints) == 1
    path = tmp_path / "csv" / "x.csv"
    (print_,) = prints
    assert opened(path, mask=0.5, workers=2).fingerprint == print_
    assert opened(path, split_seed=1).fingerprint != print_
    assert opened(path, val_fraction=0.2).fingerprint != print_
    others = [
        (ROWS[:-1], ("text", "label")),
        ([("Text number 0 of some", "0"), *ROWS[1:]], ("text", "label")),
        ([(ROWS[0][0], "1"), *ROWS[1:]], ("text", "label")),
        ([*ROWS[1:], ROWS[0]], ("text", "label")),
        (ROWS, ("sentence", "label")),
    ]
    made = {opened(write(tmp_path / f"{n}.tsv", *other)).fingerprint for n, other in enumerate(others)}
    assert len(made - {print_}) == len(others)


@pytest.mark.parametrize("val", ["dev", "val", "valid", "validation"])
@pytest.mark.parametrize("where", [".", "data"])
def test_a_folder_brings_its_own_splits(tmp_path: Path, val: str, where: str) -> None:
    write(tmp_path / where / "train.csv")
    write(tmp_path / where / f"{val}.tsv", [("chosen by", "1")])
    write(tmp_path / where / "test.jsonl", [("tested on", 0)])
    (tmp_path / where / "README.md").write_text("no data")
    data = opened(tmp_path)
    assert len(data.train) == len(ROWS)
    assert samples(data, data.val) == [("chosen by", "1")]
    assert samples(data, data.test) == [("tested on", "0")]
    # Rows are those of the whole source, each in one split.
    assert data.val is not None
    assert sorted([*data.train.rows, *data.val.rows, *data.test.rows]) == list(range(42))


def test_without_a_test_split_the_validation_split_is_tested_on(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv")
    write(tmp_path / "dev.tsv", [("tested on", "0")])
    data = opened(tmp_path)
    assert samples(data, data.test) == [("tested on", "0")]
    assert len(data.val or []) == 4
    watched = opened(tmp_path, watch_test=True)
    assert watched.val is watched.test
    assert len(watched.train) == len(ROWS)


@pytest.mark.parametrize(
    ("columns", "rows"),
    [(("index", "sentence"), [("0", "no label here")]), (("sentence", "label"), [("no label here", "-1")])],
)
def test_a_test_split_that_was_published_without_labels_is_passed_over(tmp_path: Path, columns: Any, rows: Any) -> None:
    write(tmp_path / "train.tsv")
    write(tmp_path / "dev.tsv", [("tested on", "0")])
    write(tmp_path / "test.tsv", rows, columns)
    data = opened(tmp_path)
    assert samples(data, data.test) == [("tested on", "0")]
    with pytest.raises(InputError, match=r"label"):
        opened(tmp_path, test_split="test")


def test_splits_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "small.tsv")
    write(tmp_path / "dev_matched.tsv", [("matched", "0")])
    write(tmp_path / "dev.tsv", [("chosen by", "0")])
    data = opened(tmp_path, train_split="small", test_split="dev_matched")
    assert samples(data, data.test) == [("matched", "0")]
    assert samples(data, data.val) == [("chosen by", "0")]
    with pytest.raises(InputError, match=r"'small'"):
        opened(tmp_path, train_split="smal")
    with pytest.raises(InputError, match=r"data.test_split=dev_mismatched.*'dev_matched'"):
        opened(tmp_path, train_split="small", test_split="dev_mismatched")
    with pytest.raises(InputError, match=r"both 'small'"):
        opened(tmp_path, train_split="small", test_split="small")
    with pytest.raises(InputError, match=r"one file.*data\.test_split"):
        opened(tmp_path / "small.tsv", test_split="dev")


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (1, 0):
        rows = ROWS[20 * number : 20 * number + 20]
        write(tmp_path / "data" / f"train-0000{number}-of-00002.parquet", rows)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", ROWS[:2])
    data = opened(tmp_path, val_fraction=0)
    assert samples(data, data.train) == ROWS


def test_class_names_that_a_parquet_file_declares_are_used(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = {"names": ["worse", "better", "never"], "_type": "ClassLabel"}
    features = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": label}}}
    table = pa.table({"text": [row[0] for row in ROWS], "label": [int(row[1]) for row in ROWS]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "train.parquet")
    write(tmp_path / "test.csv", [("by its name", "better")])
    data = opened(tmp_path)
    assert data.class_names == ["worse", "better", "never"]
    assert samples(data, data.test) == [("by its name", "better")]
    named = {"0": "worse", "1": "better"}
    assert set(samples(data, data.train)) < {(text, named[label]) for text, label in ROWS}
    write(tmp_path / "test.jsonl", [("by another number", 1)])
    (tmp_path / "test.csv").unlink()
    with pytest.raises(InputError, match=r"test\.jsonl, line 1: label '1' does not occur in training"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "100"], ["9", "10", "100"]),
        (["003", "1", "2"], ["1", "2", "3"]),
        (["b", "a", "10"], ["10", "a", "b"]),
        (["other", "10", "9"], ["9", "10", "other"]),
        (["-2", "-10", "3"], ["-10", "-2", "3"]),
        (["good", "Bad", "ugly"], ["Bad", "good", "ugly"]),
        (["1.0", "0.00", "2"], ["0", "1", "2"]),
        (["1.0.0", "2.5", "3."], ["1.0.0", "2.5", "3."]),
    ],
)
def test_numbers_sort_by_value_and_names_by_letters(tmp_path: Path, labels: list[str], names: list[str]) -> None:
    rows = [(f"text {n}", labels[n % 3]) for n in range(30)]
    assert opened(write(tmp_path / "x.tsv", rows)).class_names == names


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [([1.0, 0.0, None], ["0", "1"]), ([True, False, None], ["false", "true"]), ([3, -1, 2], ["2", "3"])],
)
def test_typed_labels(tmp_path: Path, kind: str, labels: list[Any], names: list[str]) -> None:
    rows = [(f"text {n}", labels[n % 3]) for n in range(30)]
    data = opened(write(tmp_path / f"train{kind}", rows), val_fraction=0)
    assert data.class_names == names
    assert (data.train.labels < 0).sum() == 10
    assert data.notes == [f"10 of {len(data.train)} training texts have no label (it is empty or -1)"]


def test_labels_that_pandas_wrote_with_a_point_are_those_of_the_other_file(tmp_path: Path) -> None:
    labels = ["1.0", "0.0", "", "-1.0"]
    write(tmp_path / "train.csv", [(f"text {n}", labels[n % 4]) for n in range(40)])
    write(tmp_path / "test.csv", [("tested on", "1")])
    data = opened(tmp_path, val_fraction=0)
    assert data.class_names == ["0", "1"]
    assert (data.train.labels < 0).sum() == 20
    assert samples(data, data.test) == [("tested on", "1")]


@pytest.mark.parametrize(("kind", "mark", "name"), [("csv", ";", "semicolons"), ("csv", "\t", "tabs"),
                                                     ("tsv", ",", "commas")])  # fmt: skip
def test_another_separator_is_guessed_aloud(tmp_path: Path, kind: str, mark: str, name: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_text("".join(f"{mark.join(row)}\n" for row in [("text", "label"), *ROWS]))
    with pytest.raises(InputError, match=f"It seems to have {name} between them"):
        opened(path)
    path.write_text("words\n" + "a\n" * 9)
    with pytest.raises(InputError, match=r"Its columns: 'words'\.$"):
        opened(path)


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("sentence1 sentence2 text label", ("b0", "b1"), "b3"),
        ("Hypothesis PREMISE Target", ("b1", "b0"), "b2"),
        ("question2 question1 class", ("b1", "b0"), "b2"),
        ("question sentence label", ("b0", "b1"), "b2"),
        ("text sentence category", "b1", "b2"),
        ("review text labels label", "b1", "b3"),
        ("sentence1 phrase Label", "b1", "b2"),
        ("Content id target label", "b0", "b3"),
    ],
)
def test_columns_are_found_by_their_names(tmp_path: Path, header: str, text: Any, label: str) -> None:
    columns = header.split()
    rows = [[f"{letter}{n}" for n in range(len(columns))] for letter in "abcd"]
    write(tmp_path / "two" / "train.csv", rows, columns)
    write(tmp_path / "two" / "dev.csv", rows[1:2], columns)
    data = opened(tmp_path / "two", val_fraction=0)
    assert samples(data, data.test) == [(text, label)]


def test_columns_can_be_named(tmp_path: Path) -> None:
    columns = ("label", "sentence", "#1 String", "#2 String", "Quality")
    rows = [("x", "y", f"one {n}", f"two {n}", n % 2) for n in range(20)]
    path = write(tmp_path / "msr.csv", rows, columns)
    data = opened(path, text=["#1 String", "#2 String"], label="Quality")
    assert data.texts[3] == ("one 3", "two 3")
    assert data.class_names == ["0", "1"]
    assert opened(path, text=["#2 String"], label="Quality").texts[3] == "two 3"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"text": ["sentense"]}, r"msr\.csv: data\.text names column 'sentense'.*Did you mean 'sentence'.*'Quality'"),
        ({"label": "quality"}, r"msr\.csv: data\.label names column 'quality'.*Did you mean 'Quality'"),
        ({"text": ["Quality"], "label": "Quality"}, r"both text and label"),
        ({"text": ["label", "sentence", "Quality"]}, r"one column of texts, or the two of a pair"),
    ]
    for keys, message in cases:
        with pytest.raises(InputError, match=message):
            opened(path, **keys)


def test_quotes_are_csvs_in_csv_and_characters_in_tsv(tmp_path: Path) -> None:
    csv, tsv = tmp_path / "csv" / "train.csv", tmp_path / "tsv" / "train.tsv"
    for path in (csv, tsv):
        write(path)
    with csv.open("ab") as stream:
        stream.write(b'"said ""so"", \r\nand went",1\r\n')
    with tsv.open("ab") as stream:
        stream.write(b'"an open quote, \xe2\x80\xa8 and \x0b a line separator\t1\r\n')
    assert opened(csv).texts[40] == 'said "so", \r\nand went'
    assert opened(tsv).texts[40] == '"an open quote, \u2028 and \x0b a line separator'


@pytest.mark.parametrize("kind", [".tsv", ".csv", ".jsonl"])
def test_a_byte_order_mark_other_line_ends_and_blank_lines_do_no_harm(tmp_path: Path, kind: str) -> None:
    plain = write(tmp_path / "a" / f"x{kind}")
    other = tmp_path / f"x{kind}"
    lines = plain.read_bytes().splitlines()
    other.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines[:9]) + b"\r\n\r\n" + b"\r\n".join(lines[9:]))
    assert opened(other).fingerprint == opened(plain).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_may_be_a_megabyte_long(tmp_path: Path, kind: str) -> None:
    import csv

    before = csv.field_size_limit()
    long = "word " * 200_000 + "end"
    data = opened(write(tmp_path / f"x{kind}", [*ROWS, (long, "1")]))
    assert data.texts[40] == long
    assert csv.field_size_limit() == before


def test_texts_that_are_trained_on_and_measured_on_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv")
    write(tmp_path / "dev.tsv", [ROWS[3], ("seen nowhere", "0")])
    write(tmp_path / "test.tsv", [(f" {ROWS[5][0].replace(' ', '  ')} ", "1"), ROWS[6], ("unseen", "0")])
    assert opened(tmp_path).notes == [
        "2 of 3 test texts stand in the training set, too",
        "1 of 2 validation texts stands in the training set, too",
    ]
    assert len(opened(tmp_path).notes) == 2
    assert len(opened(tmp_path, watch_test=True).notes) == 1


def test_links_that_lead_out_are_followed_only_where_that_is_allowed(tmp_path: Path) -> None:
    outside = write(tmp_path / "elsewhere" / "x.tsv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.tsv").symlink_to(outside)
    with pytest.raises(InputError, match=r"train\.tsv is a link.*data\.follow_links=true"):
        opened(tmp_path / "in")
    assert len(opened(tmp_path / "in", follow_links=True).texts) == 40


def test_files_beyond_the_budget_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.memory_budget_gb=0"):
        opened(write(tmp_path / "x.tsv"), memory_budget_gb=0.0)


def test_a_name_that_is_nothing_is_refused_with_what_is_valid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pydoc:.*Did you mean 'pydocs'.*\.parquet.*hf/NAME"):
        open_data(Data(name="pydoc"))


def test_sst2(shared_data: Path) -> None:
    folder = shared_data / "sst2"
    if not folder.is_dir():
        pytest.skip(f"no SST-2 at {folder}")
    data = opened(folder, val_fraction=0.0)
    assert (len(data.train), len(data.test)) == (67_349, 872)
    assert data.class_names == ["0", "1"]
    assert data.val is data.faults() is None
    assert data.texts[0] == "hide new secretions from the parental units"
    assert os.fspath(folder) not in data.fingerprint
    assert np.bincount(data.train.labels).tolist() == [29_780, 37_569]
