"""What is kept of answers, cut off or damaged at any byte, and on a disk that is full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdtool.errors import RunError
from kdtool.generation.request import Answer, Request, Sampling
from kdtool.generation.store import Store


def request(number: int) -> Request:
    return Request("m", (("user", f"question {number} \u2028 \ud83d"),), Sampling())


def answer(number: int) -> Answer:
    return Answer(f"answer {number}\n\ud800 \u00e9", "stop", 3, 4, True, "m", 0.1)


def filled(folder: Path, count: int = 3) -> bytes:
    store = Store(folder)
    for number in range(count):
        store.add(request(number), answer(number))
    store.close()
    return store.path.read_bytes()


def test_a_file_cut_at_any_byte_loses_its_last_answer_only(tmp_path: Path) -> None:
    whole = filled(tmp_path)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "answers.jsonl"
    for size in sorted(
        {*range(0, len(whole), 41), *(end + by for end in ends for by in (-2, -1, 0, 1))} - {ends[-1] + 1}
    ):
        path.write_bytes(whole[:size])
        store = Store(tmp_path)
        kept = sum(end <= size for end in ends)
        assert len(store) == kept
        store.add(request(9), answer(9))
        store.close()
        again = Store(tmp_path)
        assert [again.get(request(number).key) for number in range(kept)] == [answer(n) for n in range(kept)]
        assert again.get(request(9).key) == answer(9)
        assert again.damaged == 0
        again.close()


def test_a_damaged_line_is_asked_for_again(tmp_path: Path) -> None:
    lines = filled(tmp_path).splitlines(keepends=True)
    for nonsense in (b"{}\n", b"[1]\n", b"\0\0\n", b'{"key": 3, "answer": {}}\n', lines[1][:40] + b"\n"):
        (tmp_path / "answers.jsonl").write_bytes(lines[0] + nonsense + lines[2])
        store = Store(tmp_path)
        assert [request(number).key in store for number in range(3)] == [True, False, True]
        assert store.get(request(2).key) == answer(2)
        assert store.damaged == 1
        assert (store.prompt_tokens, store.completion_tokens) == (6, 8)
        store.close()


def test_a_refusal_is_kept_and_is_no_answer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(request(1), None, "status 400")
    store.close()
    again = Store(tmp_path)
    assert request(1).key in again
    assert again.get(request(1).key) is None
    assert again.damaged == 0


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled(tmp_path)
    store = Store(tmp_path)
    real = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 50:  # some of it still fits
            return real(file, data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunError, match="No space left"):
        store.add(request(7), Answer("x" * 40, "stop", 1, 1, True, "m", 0.1))
    monkeypatch.undo()
    assert store.path.read_bytes() == before
    store.add(request(8), answer(8))
    store.close()
    assert [request(number).key in Store(tmp_path) for number in (0, 7, 8)] == [True, False, True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_device_that_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path)
    os.dup2(os.open("/dev/full", os.O_WRONLY), store._file)
    with pytest.raises(RunError, match="No space left"):
        store.add(request(1), answer(1))
    assert request(1).key not in store
