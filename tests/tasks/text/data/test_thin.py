"""What the student's training set leaves out, and what joins it without a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.data.open import open_data, thin
from kdtool.tasks.text.data.texts import Texts
from kdtool.tasks.text.options import Data
from tests.tasks.text.data.files import ROWS, write


@pytest.fixture
def data(tmp_path: Path) -> TextData:
    write(tmp_path / "train.tsv")
    write(tmp_path / "dev.tsv", [("chosen by", "0")])
    write(tmp_path / "test.tsv", [("tested on", "1")])
    return open_data(Data(name=str(tmp_path)))


def thinned(data: TextData, **keys: Any) -> HeldSplit:
    return thin(data, Data(name=data.name, **keys))


def test_nothing_is_left_out_unless_it_is_asked_for(data: TextData) -> None:
    whole = thinned(data)
    assert whole.digest() == data.train.digest()
    assert whole.samples is data.texts
    assert whole.extra_fingerprint is None


def test_classes_and_labels_are_left_out(data: TextData) -> None:
    assert set(thinned(data, exclude_classes=["1"]).labels) == {0}
    few = thinned(data, labels_per_class=3)
    assert np.bincount(few.labels).tolist() == [3, 3]
    assert set(few.rows) < set(thinned(data, labels_per_class=5).rows)
    with pytest.raises(InputError, match=r"no class '2'"):
        thinned(data, exclude_classes=["2"])
    with pytest.raises(InputError, match="no training text"):
        thinned(data, exclude_classes=["0", "1"])


def test_lines_join_without_a_label_and_with_rows_of_their_own(data: TextData, tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_bytes(b"\xef\xbb\xbffirst line\r\n\n  \nsecond, caf\xc3\xa9\n tested  on\nchosen by\n" + b"w " * 500_000)
    joined = thinned(data, unlabelled=str(path), labels_per_class=2)
    assert joined.labels.tolist()[4:] == [-1, -1, -1]
    assert (joined.labels[:4] >= 0).all()
    # Numbers past all of the source's own, whatever was thinned: caches know samples by them.
    assert joined.rows.tolist()[4:] == [42, 43, 44]
    assert [joined.samples[row] for row in (42, 43)] == ["first line", "second, café"]
    own = int(joined.rows[0])
    assert joined.samples[own] == data.texts[own]
    assert len(data.texts) == 42
    note = "2 of 5 unlabelled texts stand in the validation or test set and were left out"
    assert data.notes == [note]
    assert joined.take(np.array([0, 5])).extra_fingerprint == joined.extra_fingerprint


def test_the_fingerprint_of_extras_follows_their_texts(data: TextData, tmp_path: Path) -> None:
    prints = []
    for name, content in {"a": "one\ntwo\n", "b": "one\n\ntwo", "c": "two\none\n", "d": "one\ntwo\nthree\n"}.items():
        (tmp_path / name).write_text(content)
        prints.append(thinned(data, unlabelled=str(tmp_path / name)).extra_fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_bad_lines_of_extras_count_by_themselves(data: TextData, tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_bytes(b"good\n" * 9 + b"caf\xe9\n")
    data.list_faults(tmp_path / "run")
    with pytest.raises(InputError, match=r"more\.txt, line 10: it is not UTF-8.*one bad line of 10"):
        thinned(data, unlabelled=str(path))
    data = open_data(Data(name=data.name, max_bad=0.1))
    data.list_faults(tmp_path / "run")
    for _ in range(2):
        assert len(thinned(data, unlabelled=str(path))) == 49
    listed = (tmp_path / "run" / "bad-lines.jsonl").read_text()
    assert listed.count("\n") == 1
    assert '"split": "unlabelled"' in listed


def test_pairs_join_by_a_tab(tmp_path: Path) -> None:
    rows = [(f"one {n}", f"two {n}", n % 2) for n in range(30)]
    data = open_data(Data(name=str(write(tmp_path / "x.tsv", rows, ("premise", "hypothesis", "label")))))
    (tmp_path / "pairs.txt").write_text("one\ttwo\n")
    joined = thinned(data, unlabelled=str(tmp_path / "pairs.txt"))
    assert joined.samples[int(joined.rows[-1])] == ("one", "two")
    (tmp_path / "single.txt").write_text("one\n")
    with pytest.raises(InputError, match=r"single\.txt, line 1: a pair of texts with one tab"):
        thinned(data, unlabelled=str(tmp_path / "single.txt"))


@pytest.mark.parametrize("kind", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_of_a_table_the_texts_alone_join(data: TextData, tmp_path: Path, kind: str) -> None:
    rows = [(7, "first text", "3"), (8, "second text", "no class"), (9, "tested on", "1")]
    joined = thinned(data, unlabelled=str(write(tmp_path / f"more{kind}", rows, ("id", "Sentence", "label"))))
    assert [joined.samples[row] for row in joined.rows.tolist()[40:]] == ["first text", "second text"]
    assert joined.labels.tolist()[40:] == [-1, -1]
    bare = write(tmp_path / f"bare{kind}", [("a text", "x")], ("phrase", "note"))
    assert thinned(data, unlabelled=str(bare)).samples[42] == "a text"
    named = thinned(data, unlabelled=str(bare), text=["note"])
    assert named.samples[42] == "x"


def test_a_table_of_extras_has_what_the_data_have(data: TextData, tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.tsv", [("one", "two")], ("sentence1", "sentence2"))
    with pytest.raises(InputError, match=r"pairs\.tsv was read from sentence1 and sentence2, .* from one column"):
        thinned(data, unlabelled=str(pairs))
    for rows, columns, what in (([], ("text",), "nothing but a header"), ([("a",)], ("other",), "no column")):
        with pytest.raises(InputError, match=what):
            thinned(data, unlabelled=str(write(tmp_path / "odd.csv", rows, columns)))
    both = [(f"one {n}", f"two {n}", n % 2) for n in range(30)]
    paired = open_data(Data(name=str(write(tmp_path / "x.tsv", both, ("premise", "hypothesis", "label")))))
    joined = thinned(paired, unlabelled=str(pairs))
    assert joined.samples[int(joined.rows[-1])] == ("one", "two")


@pytest.mark.parametrize("what", ["missing", "empty", "folder", "measured"])
def test_extras_that_hold_nothing_are_refused(data: TextData, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.write_text("\n \n")
    if what == "folder":
        path.mkdir()
    if what == "measured":
        path.write_text("tested on\n")
    with pytest.raises(InputError, match=rf"data\.unlabelled=.*{what}"):
        thinned(data, unlabelled=str(path))


def test_pairs_and_single_texts_do_not_join() -> None:
    assert len(ROWS) == 40
    with pytest.raises(ValueError, match="pairs"):
        Texts(["a"]).join(Texts(["a"], ["b"]))
