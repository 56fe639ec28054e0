"""One run that several files look at."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tests.running import Done
from tests.tasks.text.runs import distil, sentences


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A BERT's BiLSTM on ninety sentences, one with markup in front of each."""
    place = tmp_path_factory.mktemp("text-run")
    return distil(place / "run", sentences(place / "data.tsv", first="<b>x</b> "), "--baseline")


@pytest.fixture(scope="session")
def text_data(text_run: Done) -> Path:
    """Its data."""
    return text_run.folder.parent / "data.tsv"
