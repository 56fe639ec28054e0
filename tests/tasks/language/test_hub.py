"""Data sets of Hugging Face ``datasets``, from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from kdtool.tasks.language.data.open import read_data
from kdtool.tasks.language.options import Data


def test_a_hub_data_sets_splits_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]
    split = datasets.Dataset.from_list([{"messages": turns}] * 6)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "chats"))
    raw = read_data(Data(name="hf/chats", root=str(tmp_path)))
    assert len(raw.samples) == 12
    found = raw.samples[0]
    assert not isinstance(found, str)
    assert found.turns == (("user", "How?"), ("assistant", "So."))
