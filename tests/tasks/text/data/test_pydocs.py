"""The built-in data set; Python versions differ in its texts, so that no count is exact here."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.common.pydocs import topics
from kdtool.tasks.text.data import pydocs
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.options import Data


def test_it_has_ten_topics_of_plain_sentences() -> None:
    data = open_data(Data())
    assert len(data.class_names) == 10
    assert data.class_names == sorted(data.class_names)
    texts = data.texts
    assert texts.second is None
    assert len(texts) > 1000
    assert len(set(texts.first)) == len(texts)
    assert all(4 <= len(text.split()) <= 60 for text in texts.first)
    assert not any("::=" in text or "\n" in text or ">>>" in text for text in texts.first)
    assert data.val is not None
    for split in (data.train, data.val, data.test):
        assert (np.bincount(split.labels, minlength=10) > 0).all()
    assert sorted([*data.train.rows, *data.val.rows, *data.test.rows]) == list(range(len(texts)))
    assert data.notes == []


def test_its_test_split_does_not_depend_on_options() -> None:
    one, other = open_data(Data()), open_data(Data(split_seed=3, test_fraction=0.5, val_fraction=0.3))
    assert (one.test.rows == other.test.rows).all()
    assert one.fingerprint == open_data(Data()).fingerprint != other.fingerprint


def test_it_depends_on_the_text_of_the_topics_only() -> None:
    found = dict(topics())
    turned = dict(reversed(found.items()))
    one, other = pydocs.sentences_by_topic(found), pydocs.sentences_by_topic(turned)
    assert list(one.items()) == list(other.items())


def test_a_topic_is_cut_into_sentences() -> None:
    text = """The "with" statement
********************

A sentence that goes
over two lines.  Another one follows, e.g. this one (it ends
here.)

   with_stmt ::= "with" with_item "." suite

   >>> with open("x") as f: read the file there.

object.__enter__(self)

   This is explained with an inden-
   tation by a term.

Too short.

* A bullet is a sentence, too.

New in version 3.1: The statement has more than one item.
"""
    assert list(pydocs.sentences(text)) == [
        "A sentence that goes over two lines.",
        "Another one follows, e.g. this one (it ends here.)",
        "This is explained with an inden-tation by a term.",
        "A bullet is a sentence, too.",
        "The statement has more than one item.",
    ]


def test_no_sentence_is_of_two_topics() -> None:
    same, own = "This sentence is in both of them. ", "This one is in the larger one. "
    found = pydocs.sentences_by_topic({"b": same + own, "a": same})
    assert found == {"a": [], "b": sorted([same.strip(), own.strip()])}


def test_a_python_without_its_documentation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "pydoc_data.topics", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pydocs reads the documentation"):
        open_data(Data())
