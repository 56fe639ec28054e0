"""Chats and texts in tokens: what is learnt of them, and what is cut."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from kdtool.tasks.common.files.cells import Unfit
from kdtool.tasks.language.data.chats import Chat, Writer
from kdtool.tasks.language.data.encode import Tokenized, tokenize
from kdtool.tasks.language.models.tokens import END, Tokens
from tests.tasks.language.small import chat, tokens

WORDS = tokens()


def learnt(found: Tokenized, of: Tokens = WORDS, row: int = 0) -> str:
    """Return the text of the tokens that are learnt, special ones included."""
    ids, marks = found[row]
    return str(of.library.decode(ids[marks]))


def written(*samples: Any, loss_on: str = "completion", template: str = "auto", most: int = 100) -> Any:
    return tokenize(samples, Writer(WORDS, template, loss_on), most)


def test_an_assistants_turns_are_learnt_with_their_end_tokens() -> None:
    found, _ = written(chat("How are you?", "wet", "And you?", "cold"))
    assert learnt(found) == f"wet{END}cold{END}"


def test_the_last_turn_alone_is_learnt_where_that_is_asked_for() -> None:
    found, _ = written(chat("How are you?", "wet", "And you?", "cold"), loss_on="last")
    assert learnt(found) == f"cold{END}"


def test_all_tokens_but_the_first_are_learnt_where_that_is_asked_for() -> None:
    found, _ = written(chat("How are you?", "wet"), loss_on="all")
    assert found.learnt.tolist() == [False] + [True] * (len(found.ids) - 1)


def test_without_a_template_turns_are_joined() -> None:
    found, _ = written(chat("How are you?", "wet", "And you?", "cold"), template="plain")
    assert WORDS.library.decode(found.ids) == f"How are you?\nwet{END}\nAnd you?\ncold{END}"
    assert learnt(found) == f"wet{END}cold{END}"


def test_a_prompt_and_its_completion_are_put_into_tokens_in_one_go() -> None:
    sample = Chat((("user", "How are yo"), ("assistant", "u?")), glue="")
    found, _ = written(sample, template="plain")
    whole = WORDS.library("How are you?" + END, add_special_tokens=False).input_ids
    assert found.ids.tolist() == whole
    # "you" is one token: it is learnt where its last character is.
    assert WORDS.library.convert_ids_to_tokens(whole)[2] == "Ġyou"
    assert found.learnt.tolist() == [False, False, True, True, True]


def test_an_end_token_that_pads_stays_an_end_token() -> None:
    assert WORDS.library.pad_token_id == WORDS.library.eos_token_id
    found, _ = written(chat("How are you?", "wet"))
    ids, marks = found[0]
    end = WORDS.library.eos_token_id
    assert [bool(mark) for number, mark in zip(ids, marks, strict=True) if number == end] == [False, True]


def test_a_text_is_learnt_whole_with_its_end() -> None:
    found, _ = written("How are you?")
    assert learnt(found).endswith(f"are you?{END}")
    assert int(found.learnt.sum()) == len(found.ids) - 1


def test_of_a_long_sample_the_last_tokens_are_kept_and_the_loss_is_counted() -> None:
    sample = chat("How are you? " * 10, "wet")
    whole, _ = written(sample, most=1000)
    found, cuts = written(sample, chat("you?", "cold"), most=20)
    assert found[0][0].tolist() == whole.ids[-20:].tolist()
    assert learnt(found) == f"wet{END}"
    (note,) = cuts.notes(20)
    assert note.startswith("1 sample was longer than data.max_length=20")
    assert f"lost {len(whole.ids) - 20:,} tokens" in note
    assert "to be learnt" not in note


def test_learnt_tokens_that_are_lost_are_said() -> None:
    _, cuts = written(chat("you?", "wet " * 30), most=10)
    (note,) = cuts.notes(10)
    assert "of them to be learnt" in note
    assert cuts.learnt > 0


def test_a_long_text_is_cut_into_pieces_that_predict_every_token_once() -> None:
    text = "How are you? rain is wet. " * 8
    whole, _ = written(text, most=10_000)
    pieces, cuts = written(text, most=11)
    assert len(pieces) == -(-(len(whole.ids) - 1) // 10)
    assert list(cuts.notes(11)) == []
    labels = np.concatenate([pieces[i][0][pieces[i][1]] for i in range(len(pieces))])
    assert labels.tolist() == whole.ids[1:].tolist()
    assert set(pieces.sources) == {0}


def test_a_template_that_rewrites_earlier_turns_is_told() -> None:
    library = tokens().library
    each = "{% if loop.last or m.role == 'user' %}<{{ m.role }}>{{ m.content }}{% endif %}"
    library.chat_template = (
        f"{{% for m in messages %}}{each}{{% endfor %}}" + "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = chat("How are you?", "wet", "And you?", "cold")
    with pytest.raises(Unfit, match=r"writes its turn 2 otherwise.*data.loss_on=last"):
        Writer(Tokens(library), "auto", "completion")(turns)
    found = Writer(Tokens(library), "auto", "last")(turns)
    assert [found.text[a:b] for a, b in found.learnt] == ["cold"]


def test_a_vocabulary_follows_from_the_texts_alone() -> None:
    program = (
        "from tests.tasks.language.small import tokens\n"
        "print(tokens().digest)"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"}
    )
    assert done.stdout.strip() == WORDS.digest


def test_a_chat_may_begin_with_the_assistant() -> None:
    greeting = Chat((("assistant", "How are you?"), ("user", "wet")))
    assert learnt(written(greeting)[0]) == f"How are you?{END}"


def test_a_tokenizer_opens_again_as_it_was(tmp_path: Any) -> None:
    from kdtool.tasks.language.models.tokens import of_folder

    for name, text in WORDS.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    again = of_folder(str(tmp_path))
    assert (again.digest, again.files) == (WORDS.digest, WORDS.files)
