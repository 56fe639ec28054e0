"""``kdtool predict`` on sentences: lines, tables, standard input that never ends, and what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kdtool
from kdtool.errors import InputError
from kdtool.tasks.common.files.stream import AT_ONCE
from kdtool.tasks.text.data.inputs import chunks_of
from tests.running import Done, call
from tests.tasks.text.data.files import write
from tests.tasks.text.runs import CLASSES, evaluated

LINES = ["rain wind sun cloud", "bread salt oven knife", "ship sail rope anchor", "snow"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "new.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def document(*arguments: object) -> dict[str, Any]:
    done = call("predict", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_it_says_what_eval_says_of_the_same_sentences(text_run: Done, tmp_path: Path) -> None:
    table, lines = tmp_path / "p.csv", tmp_path / "lines.txt"
    evaluated(text_run.folder, "--split", "all", "--predictions", table)
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lines.write_text("\n".join(row["text"] for row in rows), encoding="utf-8")
    found = document(text_run.folder, lines, "--batch-size", 7)["predictions"]
    assert [each["input"] for each in found] == [row["text"] for row in rows]
    assert [each["line"] for each in found] == list(range(1, len(rows) + 1))
    for each, row in zip(found, rows, strict=True):
        ((guess),) = each["classes"]
        assert guess["class"] == row["predicted_class"]
        assert guess["probability"] == pytest.approx(float(row["confidence"]), abs=1e-5)


def test_a_table_csv_and_the_likeliest_classes(text_run: Done, lines: Path) -> None:
    done = call("predict", text_run.folder / "student", lines, "--task", "text", "--top", 3)
    assert done.code == 0, done.err
    assert all(done.out.count(name) >= len(LINES) for name in CLASSES)
    assert "ship sail rope anchor" in done.out
    rows = list(csv.DictReader(io.StringIO(call("predict", text_run.folder, lines, "--top", 2, "--csv").out)))
    assert [(row["line"], row["rank"]) for row in rows[:3]] == [("1", "1"), ("1", "2"), ("2", "1")]
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"])


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_tables_are_read_by_their_column(text_run: Done, kind: str, tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    found = write(tmp_path / f"new.{kind}", [(i, line) for i, line in enumerate(LINES)], ("number", "text"))
    assert [each["input"] for each in document(text_run.folder, found)["predictions"]] == LINES
    other = write(tmp_path / f"other.{kind}", [(i, line) for i, line in enumerate(LINES)], ("number", "opinion"))
    assert call("predict", text_run.folder, other).code == 2
    assert len(document(text_run.folder, other, "data.text=[opinion]")["predictions"]) == len(LINES)


def test_a_model_by_name_needs_what_lies_beside_its_weights(text_run: Done, lines: Path) -> None:
    weights = text_run.folder / "student" / "model.safetensors"
    assert document("bilstm", lines, "--task", "text", "--weights", weights) == document(text_run.folder, lines)
    said = call("predict", "bilstm", lines, "--task", "text")
    assert said.code == 2
    assert "--weights" in said.err


def test_bad_lines_are_told_and_counted(text_run: Done, tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_bytes(b"\xef\xbb\xbfrain\n\nsn\xffow\r\nnul \0\n" + "wïnd\r\n".encode() + b"x" * 2_000_000 + b"\nsun")
    done = call("predict", text_run.folder, path, "--json")
    found = json.loads(done.out)
    assert [(each["line"], each["input"]) for each in found["predictions"]] == [(1, "rain"), (5, "wïnd"), (7, "sun")]
    assert found["left_out"] == 3
    assert f"{path}, line 3: it is not UTF-8 (byte 3: 0xff)" in done.err
    assert f"{path}, line 4" in done.err
    assert f"{path}, line 6: it is longer" in done.err
    assert "3 of 6 inputs" in done.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\n\xfe\n", "none of the 2 sentences"),
        (b"\n \n", "no sentences"),
        ("rain\nsun".encode("utf-16"), "line 2: it looks like UTF-16, and UTF-8 is wanted"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_nothing_that_can_be_read_is_an_error(
    text_run: Done, content: bytes, says: str, form: list[str], tmp_path: Path
) -> None:
    (tmp_path / "new.txt").write_bytes(content)
    done = call("predict", text_run.folder, tmp_path / "new.txt", *form)
    assert done.code == 2
    assert done.out == ""
    assert says in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such.txt"], "no file 'no-such.txt'"),
        (["."], "is a folder"),
        (["-", "--top", "4"], "3 classes"),
        (["-", "--image-size", "8"], "--image-size does not apply to sentences"),
        (["-", "data.mask=0.5"], "only data.text"),
        (["-", "data.text=[a,b,c]"], "two of a pair"),
        (["-", "--csv", "--json"], "exclude"),
        (["data.text=[a]"], "name files"),
    ],
)
def test_what_makes_no_sense_is_refused(text_run: Done, arguments: list[str], says: str) -> None:
    done = call("predict", text_run.folder, *arguments)
    assert done.code == 2
    assert says in done.err


def test_standard_input_is_answered_before_it_ends(text_run: Done) -> None:
    command = [sys.executable, "-m", "kdtool", "predict", str(text_run.folder), "-", "--csv", "--device", "cpu"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for number in (1, 2, 3):
            child.stdin.write(f"rain and wind {number}\n")
            child.stdin.flush()
            header = [child.stdout.readline()] if number == 1 else []
            assert header in ([], ["file,line,input,rank,class,probability\n"])
            assert child.stdout.readline().startswith(f"-,{number},rain and wind {number},1,")
        child.stdin.close()
        assert child.wait(60) == 0


def test_a_stream_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        sent = 0

        def read1(self, size: int) -> bytes:
            self.sent += size
            return (b"some words\n" * size)[:size]

    stream = Endless()
    chunks = chunks_of("-", stream, False, 8)  # type: ignore[arg-type]
    assert [len(next(chunks)) for _ in range(5)] == [8] * 5
    assert stream.sent == AT_ONCE


def test_lines_of_pairs(tmp_path: Path) -> None:
    stream = io.BytesIO(b"one\ttwo\nalone\n a \t b \n")
    (items,) = chunks_of("-", stream, True, 8)
    assert [item.content for item in items] == [("one", "two"), None, ("a", "b")]
    assert items[1].problem


def test_samples_from_python(text_run: Done) -> None:
    found = list(kdtool.predict(text_run.folder, samples=iter(["rain wind", 3, "ship sail"]), top=3, batch_size=2))
    assert [each.problem for each in found] == ["", "it is neither a text nor a pair of texts.", ""]
    assert sum(p for _, p in found[0].guesses) == pytest.approx(1)
    assert found[2].where == "sample 3"
    with pytest.raises(InputError, match="one of the two"):
        kdtool.predict(text_run.folder)
