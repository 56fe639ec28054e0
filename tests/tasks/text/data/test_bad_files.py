"""Files that are wrong: one sentence that names the file, and the line where there is one; never another error."""

from __future__ import annotations

import builtins
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdtool.errors import InputError
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.options import Data
from tests.running import call
from tests.sampling import sampled
from tests.tasks.text.data.files import ROWS, write
from tests.tasks.text.runs import pair

GOOD = "".join(f"{text}\t{label}\n" for text, label in ROWS)
HEADER = "text\tlabel\n"
JSON = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)


def opened(path: Path, **keys: Any) -> TextData:
    return open_data(Data(name=str(path), **keys))


def tried(path: Path, **keys: Any) -> str | None:
    """Return what opening a file is refused with; None: it is not, and its texts are sound."""
    try:
        data = opened(path, **keys)
    except InputError as error:
        return str(error)
    assert len(data.class_names) > 1
    assert all(text.strip() and text.encode() for text in data.texts.first)
    return None


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "ragged.tsv": (b"one\ttwo\t1\n", "it has 3 columns, and the header 2"),
    "short.tsv": (b"one\n", "it has 1 column, and the header 2"),
    "empty-text.tsv": (b"  \t1\n", "its 'text' is empty"),
    "nul.tsv": (b"some\0text\t1\n", "NUL"),
    "latin.tsv": (b"caf\xe9\t1\n", "not UTF-8 (byte 4 of it: 0xe9)"),
    "ragged.csv": (b"one,two,1\n", "it has 3 columns"),
    "empty-text.csv": (b'"",1\n', "its 'text' is empty"),
    "nul.csv": (b"some\0text,1\n", "NUL"),
    "latin.csv": (b'"caf\xe9",1\n', "not UTF-8"),
    "quotes.csv": (b'"one" two,1\n', "quotes"),
    "open-quote.csv": (b'"one,1\n', "quotes"),
    "carriage.csv": (b"one\rtwo,1\n", "line ends"),
    "broken.jsonl": (b'{"text": "one", "label"\n', "it is not JSON"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "it is not JSON"),
    "digits.jsonl": (b'{"text": "one", "label": ' + b"9" * 5000 + b"}\n", "it is not JSON"),
    "list.jsonl": (b'["one", 1]\n', "no object"),
    "no-key.jsonl": (b'{"text": "one"}\n', "it has no 'label'"),
    "number.jsonl": (b'{"text": 5, "label": 1}\n', "its 'text' is no text"),
    "null.jsonl": (b'{"text": null, "label": 1}\n', "its 'text' is empty"),
    "float.jsonl": (b'{"text": "one", "label": 1.5}\n', "label 1.5 is neither a name nor a whole number"),
    "infinite.jsonl": (b'{"text": "one", "label": Infinity}\n', "neither a name nor a whole number"),
    "nested.jsonl": (b'{"text": "one", "label": [1]}\n', "label [1] is neither"),
    "surrogate.jsonl": (b'{"text": "\\ud800 one", "label": 1}\n', "half a character"),
    "escaped-nul.jsonl": (b'{"text": "a\\u0000b", "label": 1}\n', "NUL"),
    "latin.jsonl": (b'{"text": "caf\xe9", "label": 1}\n', "not UTF-8"),
}
"""A line that is bad in a file whose others are good, and what is said of it."""


def with_bad_line(folder: Path, name: str, line: bytes) -> Path:
    """Write the file with the line as its last: 42, or 41 where there is no header."""
    path = write(folder / name)
    path.write_bytes(path.read_bytes() + line)
    return path


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_left_out_and_listed_or_refused(tmp_path: Path, name: str) -> None:
    line, why = BAD_LINES[name]
    path = with_bad_line(tmp_path, name, line)
    number = 41 if path.suffix == ".jsonl" else 42
    with pytest.raises(InputError) as refusal:
        opened(path)
    message = str(refusal.value)
    assert f"{path}, line {number}: " in message
    assert why in message
    assert "one bad line of 41, more than data.max_bad=0.01 allows" in message
    assert "\n" not in message

    data = opened(path, max_bad=0.03)
    assert len(data.texts) == 40
    assert data.texts.first == [text for text, _ in ROWS]
    data.list_faults(tmp_path / "run")
    data.list_faults(tmp_path / "run")  # as a resumed run does
    (listed,) = map(json.loads, (tmp_path / "run" / "bad-lines.jsonl").read_text().splitlines())
    assert (listed["split"], listed["file"], listed["line"]) == ("training", str(path), number)
    assert why in listed["why"]
    faults = data.faults()
    assert faults is not None
    assert "1 bad line of the data was left out" in faults
    assert "bad-lines.jsonl" in faults


def test_bad_lines_are_counted_in_each_split_by_itself(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.tsv", ROWS * 5), write(tmp_path / "dev.tsv", ROWS[:4])
    train.write_text(train.read_text() + "bad\n\tbad\n")
    assert len(opened(tmp_path).texts) == 204
    dev.write_text(dev.read_text() + "bad\n")
    with pytest.raises(InputError, match=r"dev\.tsv, line 6: .* one bad line of 5"):
        opened(tmp_path)
    data = opened(tmp_path, max_bad=0.2)
    data.list_faults(tmp_path)
    assert (tmp_path / "bad-lines.jsonl").read_text().count("\n") == 3
    train.write_text(HEADER + "bad\nworse\n" + GOOD)
    with pytest.raises(InputError, match=r"train\.tsv, line 2: .* Of 42 lines in all, 2 are bad, more than"):
        opened(tmp_path)


def test_all_lines_that_an_open_quote_swallows_count(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv")
    lines = path.read_text().splitlines()
    lines[20] = '"' + lines[20]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"line 21: its quotes.* Of 40 lines in all, 21 are bad"):
        opened(path, max_bad=0.4)
    assert len(opened(path, max_bad=0.6).texts) == 19


def test_bad_rows_of_parquet_are_counted_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"
    broken = pa.array([*(text.encode() for text, _ in ROWS), b"caf\xe9", None, b" "], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(broken), broken.buffers())
    pq.write_table(pa.table({"text": texts, "label": [*(label for _, label in ROWS), "0", "0", "1"]}), path)
    with pytest.raises(InputError, match=r"train\.parquet, row 41: its 'text' is no text"):
        opened(path)
    assert len(opened(path, max_bad=0.1).texts) == 40


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.tsv": (lambda path: path.write_bytes(b""), "is empty"),
    "blank.csv": (lambda path: path.write_bytes(b"\n\n\r\n"), "is empty"),
    "empty.jsonl": (lambda path: path.write_bytes(b""), "is empty"),
    "empty.parquet": (lambda path: path.write_bytes(b""), "cannot be read as parquet"),
    "bom.tsv": (lambda path: path.write_bytes(b"\xef\xbb\xbf"), "is empty"),
    "header.tsv": (lambda path: path.write_text(HEADER), "nothing but a header"),
    "header.csv": (lambda path: path.write_text("text,label"), "nothing but a header"),
    "header.parquet": (lambda path: write(path, [("", "")][:0]), "is no text|nothing but a header"),
    "columns.tsv": (lambda path: path.write_text("a\tb\n1\t2\n"), "no column of texts .*'a', 'b'"),
    "label.csv": (lambda path: path.write_text("text,b\n1,2\n"), "no column of classes .*'text', 'b'"),
    "twice.csv": (lambda path: path.write_text("text,text,label\n1,2,3\n"), "'text' stands in the header twice"),
    "commas.tsv": (lambda path: write(path.with_suffix(".csv")).rename(path), "'text,label'"),
    "one-class.tsv": (lambda path: path.write_text(HEADER + "a\t1\nb\t1\n"), "one class only, '1'"),
    "no-class.tsv": (lambda path: path.write_text(HEADER + "a\t-1\nb\t\n"), "the column 'label' holds no class"),
    "random.tsv": (lambda path: path.write_bytes(random.Random(1).randbytes(50_000)), "line 1: .*header"),
    "random.csv": (lambda path: path.write_bytes(random.Random(2).randbytes(50_000)), "line 1: .*header"),
    "random.jsonl": (lambda path: path.write_bytes(random.Random(3).randbytes(50_000)), "no line that is a JSON"),
    "random.parquet": (lambda path: path.write_bytes(random.Random(4).randbytes(50_000)), "as parquet"),
    "utf16.tsv": (
        lambda path: path.write_text(HEADER + GOOD, encoding="utf-16"),
        "line 1: it looks like UTF-16, and UTF-8 is wanted. .*header",
    ),
    "utf16.csv": (
        lambda path: path.write_text('text,label\n"some, text",1\n', encoding="utf-16-be"),  # no mark
        "line 1: it looks like UTF-16, and UTF-8 is wanted. .*header",
    ),
    "utf16.jsonl": (
        lambda path: path.write_text('{"text": "some", "label": 1}\n', encoding="utf-16-le"),
        "first is line 1 .it looks like UTF-16, and UTF-8 is wanted",
    ),
    "zip.csv": (lambda path: path.write_bytes(b"PK\x03\x04\x14\0\0\0"), "line 1: .*header"),
    "pretty.jsonl": (lambda path: path.write_text(json.dumps([{"text": "a"}], indent=1)), "JSON"),
    "macintosh.tsv": (
        lambda path: path.write_text((HEADER + GOOD).replace("\n", "\r"), newline=""),
        "carriage returns",
    ),
    "all-bad.tsv": (lambda path: path.write_text(HEADER + "a\nb\n"), r"line 2: it has 1 column"),
    "line.tsv": (lambda path: path.write_text("x" * 1_000_000), "no column of texts"),
    "quote.csv": (lambda path: path.write_text('"' + "x" * 1_000_000), "line 1: its quotes"),
    "notes.txt": (lambda path: path.write_text(GOOD), "is one of .tsv, .csv, .jsonl, .parquet"),
    "nothing": (_folder, "no file of texts"),
    "no-train": (lambda path: write(path / "dev.tsv"), "no file 'train' to train on"),
    "two-kinds": (lambda path: (write(path / "train.tsv"), write(path / "train.csv")), "there twice"),
    "bad-dev": (lambda path: (write(path / "train.tsv"), write(path / "dev.tsv", [])), "nothing but a header"),
    "strange": (
        lambda path: (write(path / "train.tsv"), write(path / "test.tsv", [*ROWS, ("text", "2")])),
        r"test\.tsv, line 42: label '2' does not occur in training; there it is '0', '1'",
    ),
    "bare-dev": (lambda path: (write(path / "train.tsv"), write(path / "dev.tsv", [("text", "-1")])), "have no label"),
    "mixed": (
        lambda path: (
            write(path / "train.tsv"),
            write(path / "dev.tsv", [("a", "b", "1")], ("sentence1", "sentence2", "label")),
        ),
        "single texts and pairs do not mix",
    ),
}
"""What is wrong as a whole, and what is said of it."""


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("max_bad", [0.01, 1.0])
def test_what_is_wrong_as_a_whole_is_refused(tmp_path: Path, name: str, max_bad: float) -> None:
    make, why = WRONG[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=why) as refusal:
        opened(tmp_path / name, max_bad=max_bad)
    message = str(refusal.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 800 + 3 * len(str(tmp_path))


@pytest.mark.parametrize("name", sampled([*BAD_LINES, *WRONG], "latin.tsv", "one-class.tsv"))
def test_a_run_ends_in_one_message(tmp_path: Path, name: str) -> None:
    if name in WRONG:
        WRONG[name][0](tmp_path / name)
    else:
        with_bad_line(tmp_path, name, BAD_LINES[name][0])
    done = call("run", *pair(tmp_path / name), "--out", tmp_path / "run")
    assert done.code == 2
    assert [name in line for line in done.err.splitlines() if line.startswith("error: ")] == [True]
    assert "Traceback" not in done.out + done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv")
    path.chmod(0)
    with pytest.raises(InputError, match=r"x\.tsv"):
        opened(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(tmp_path / "x.parquet"), builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"x\.parquet is a parquet file.*'kdtool\[parquet\]'"):
        opened(path)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.parquet", [(f"{text} {n}", label) for n in range(50) for text, label in ROWS])
    data = whole.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 40)):
        path = tmp_path / "damaged.parquet"
        path.write_bytes(data[:at])
        with pytest.raises(InputError, match=r"damaged\.parquet"):
            opened(path)
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        refusal = tried(path, max_bad=1.0)
        assert refusal is None or "damaged.parquet" in refusal
    path.write_bytes(data.replace(b"text", b"\xffext"))
    with pytest.raises(InputError, match=r"damaged\.parquet cannot be read as parquet"):
        opened(path)


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from(
            [b"\t", b",", b"\n", b"\r\n", b"\r", b'"', b"\0", b"\xff", b"{", b'{"text": "a", "label": 1}\n']
        ),
        st.sampled_from([b"text", b"label", b"text\tlabel\n", b"text,label\n", b"-1", b"a\t1\n", b"b,0\n", b"\\ud800"]),
    ),
    max_size=30,
).map(b"".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=PIECES, kind=st.sampled_from([".tsv", ".csv", ".jsonl"]), max_bad=st.sampled_from([0.0, 1.0]))
def test_any_bytes_open_or_are_refused_with_the_files_name(
    tmp_path: Path, content: bytes, kind: str, max_bad: float
) -> None:
    path = tmp_path / f"any{kind}"
    path.write_bytes(content)
    refusal = tried(path, max_bad=max_bad)
    assert refusal is None or path.name in refusal
