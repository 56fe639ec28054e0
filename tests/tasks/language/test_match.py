"""A server's tokens beside the student's."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("transformers")

from kdtool.cache.part import NOTHING
from kdtool.errors import InputError
from kdtool.generation.reply import token_of
from kdtool.tasks.language.models.token_bytes import bytes_of
from kdtool.tasks.language.models.tokens import Tokens
from kdtool.tasks.language.recorded.match import Matching, rows_of
from tests.tasks.language.small import tokens

WORDS = {0: b"<end>", 1: b"rain", 2: b" rain", 3: b" is", 4: b" wet", 5: b" w", 6: b"et", 7: "é".encode()[:1],
         8: "é".encode()[1:], 9: b"A", 10: b"\n"}  # fmt: skip


def matching(size: int = 11) -> Matching:
    return Matching(WORDS, frozenset({0}), size)


def place(token: object, value: float = -0.5, **likely: float) -> tuple[object, float, list[tuple[object, float]]]:
    return token, value, [(token, value), *((name.replace("_", " "), each) for name, each in likely.items())]


def test_tokens_meet_where_they_stand_in_the_text() -> None:
    found = matching()
    places = [place(" rain", -0.1, _is=-3.0), place(" is", -0.2), place(" wet", -0.3, _w=-2.0), place("<end>", -0.4)]
    # Alike but for white space in front of the whole, which an answer loses.
    assert found.answer([1, 3, 4, 0], places) == [None, {3: -0.2}, {4: -0.3, 5: -2.0}, {0: -0.4}]
    assert (found.written, found.met, found.listed, found.strange.total()) == (3, 2, 10, 0)


def test_another_cut_of_the_same_text_is_unsaid_and_what_follows_is_not() -> None:
    found = matching().answer([2, 3, 5, 6, 2, 0], [place(" rain"), place(" is"), place(" wet"), place(" rain", -0.7)])
    assert found == [{2: -0.5}, {3: -0.5}, None, None, {2: -0.7}, None]


def test_pieces_of_characters_and_numbers_are_tokens() -> None:
    first, second = token_of("\ufffd", [0xC3]), token_of("\ufffd", [0xA9])
    assert token_of(" wet", list(b" wet")) == token_of(" wet", None) == " wet"
    found = matching()
    assert found.answer([7, 8, 4], [place(first), place(second), place("token_id:4")]) == [
        {7: -0.5},
        {8: -0.5},
        {4: -0.5},
    ]
    assert found.met == 3
    unsaid = matching()
    unsaid.answer([7, 8, 4], [place("\ufffd"), place("\ufffd"), place(" wet")])  # a server that does not tell its bytes
    assert not unsaid.strange


def test_a_text_that_stands_there_twice_is_unsaid() -> None:
    places = [place(" wet"), place(" is"), place(" wet")]
    assert matching().answer([4, 0], places) == [None, None]
    assert matching().answer([3, 0], places) == [{3: -0.5}, None]
    assert matching().answer([10, 0], places) == [None, None]  # nothing but white space


def test_thoughts_before_the_answer_are_passed_over() -> None:
    found = matching().answer([4, 3], [place(" rain"), place("\n"), place(" wet", -0.9), place(" is")])
    assert found == [{4: -0.9}, {3: -0.5}]


def test_another_vocabulary_is_told_by_its_tokens_and_by_its_cuts() -> None:
    strange = matching()
    strange.answer([1, 3], [place("rain"), place(" is", -0.1, _dry=-4.0)])
    with pytest.raises(InputError, match=r"1 of the 5 tokens that it names .* such as ' dry'"):
        strange.check("taught")
    cut = matching()
    cut.answer([5, 6, 3], [place(" wet"), place(" is")])
    with pytest.raises(InputError, match="it wrote 1, the others"):
        cut.check("taught")
    cut.answer([3, 3, 3, 3, 3, 3] * 5, [place(" is")] * 30)
    cut.check("taught")
    known = matching(size=4)  # the student's vocabulary ends there
    known.answer([1, 3], [place("rain", -0.5, _wet=-1.0), place(" is")])
    assert known.strange == {" wet": 1}


def test_rows_hold_what_is_said_and_what_is_left() -> None:
    rows = rows_of([{4: math.log(0.6), 2: math.log(0.3)}, None, {1: -0.00001}, {3: 0.0, 5: -9.0}], [4, 7, 1, 3])
    assert rows.index.tolist() == [[4, 2], [7, 7], [1, 1], [3, 5]]
    assert rows.known.tolist() == [2, 1, 1, 2]
    assert np.allclose(np.exp(rows.values[0]), [0.6, 0.3])
    assert np.exp(rows.rest[0]) == pytest.approx(0.1)
    assert rows.rest[1] == -NOTHING
    assert np.exp(rows.rest[2]) == pytest.approx(1e-5, rel=1e-4)
    assert rows.rest[3] == -NOTHING


def test_the_bytes_of_tokens_make_up_the_text() -> None:
    text = "Rain is wet, naïve 漢字 \U0001f600\n  twice"
    found = tokens()
    names = bytes_of(found)
    (encoded,) = found.encode([text])
    assert b"".join(names[each] for each in encoded.ids) == text.encode()
    assert names[found.library.eos_token_id] == b"<|im_end|>"


def test_the_bytes_of_sentence_pieces_make_up_the_text() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "w",
        "e",
        "t",
        "\u2581w",
        "et",
    ]
    backend = Tokenizer(models.BPE(
        {name: number for number, name in enumerate(vocabulary)}, [("\u2581", "w"), ("e", "t")], unk_token="<unk>",
        byte_fallback=True,
    ))  # fmt: skip
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    found = Tokens(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))
    names = bytes_of(found)
    (encoded,) = found.encode(["wet \u6f22"])
    assert b"".join(names[each] for each in encoded.ids) == " wet \u6f22".encode()
    assert names[found.library.eos_token_id] == b"</s>"
