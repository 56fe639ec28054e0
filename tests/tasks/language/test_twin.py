"""Two tokenizers of one text: which rows belong together, against a reading of every character of the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from kdtool.tasks.language.data.chats import ASSISTANT, Chat, Writer
from kdtool.tasks.language.data.encode import tokenize
from kdtool.tasks.language.data.twin import Twin, met_by_all, twin_of
from kdtool.tasks.language.models.tokens import Tokens
from tests.tasks.language.small import chat, tokens, unigram, wordpiece

BPE, PIECES, SPACED = tokens(), wordpiece(), unigram()
KINDS = {"bytes": BPE, "words": PIECES, "spaces": SPACED}

SAMPLES: list[Any] = [
    chat("How are you?", "It is wet."),
    chat("How are fire and wool?", "It is hot and\n\nsoft,  it is - unbelievably so. Été 🌧 x", "And snow?", "cold"),
    Chat((("user", "night"), (ASSISTANT, "dark dark dark"))),
    "It is wet.  It is cold. Stone is hard, and the night is dark",
]


def both(ours: Tokens, theirs: Tokens, samples: Any = None, most: int = 400, loss_on: str = "completion") -> Any:
    samples = SAMPLES if samples is None else samples
    found, _ = tokenize(samples, Writer(ours, "auto", loss_on), most, placed=True)
    return found, twin_of(found, samples, Writer(theirs, "auto", loss_on), theirs.size, None)


def begun(found: Tokens, text: str, first: int, bare: str, end: int) -> dict[int, int]:
    """Return, by character of an answer, the number of the token that begins there, read character by character."""
    (encoded,) = found.encode([text])
    at: dict[int, int] = {}
    for character in range(len(bare) + 1):
        for number, (begin, stop) in enumerate(encoded.spans):
            if begin == stop:
                continue
            visible = begin
            while visible < stop and text[visible].isspace():
                visible += 1
            visible = begin if visible == stop else visible
            if character < len(bare) and visible == first + character and character not in at:
                at[character] = number
            behind = first + len(bare) <= visible < end and not text[visible].isspace()
            if character == len(bare) and behind and character not in at:
                at[character] = number
    return at


def literal(ours: Tokens, theirs: Tokens, sample: Any) -> set[tuple[int, int]]:
    """Return the pairs of tokens that begin at the same character of the same answer."""
    pairs = set()
    answers = [sample] if isinstance(sample, str) else [sample.turns[i][1] for i in sample.answers]
    cursor = [0, 0]
    for answer in answers:
        tables = []
        for side, each in enumerate((ours, theirs)):
            written = Writer(each, "auto", "completion")(sample)
            first = written.text.index(answer, cursor[side])
            # No answer here stands in a question.
            end = next(stop for begin, stop in written.learnt if begin <= first < stop)
            cursor[side] = end
            tables.append(begun(each, written.text, first, answer, end))
        pairs |= {(tables[0][at], tables[1][at]) for at in tables[0].keys() & tables[1].keys()}
    return pairs


def pairs_of(found: Any, twin: Twin, row: int) -> set[tuple[int, int]]:
    own = slice(found.starts[row], found.starts[row + 1])
    other = slice(twin.samples.starts[row], twin.samples.starts[row + 1])
    ours, theirs = np.flatnonzero(twin.met[own]), np.flatnonzero(twin.meets[other])
    return set(zip(ours.tolist(), theirs.tolist(), strict=True))


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("ours", KINDS)
def test_rows_belong_together_where_tokens_begin_at_the_same_character(ours: str, theirs: str) -> None:
    found, twin = both(KINDS[ours], KINDS[theirs])
    for row, sample in enumerate(SAMPLES):
        # What begins a text is predicted by nobody.
        wanted = {pair for pair in literal(KINDS[ours], KINDS[theirs], sample) if min(pair) > 0}
        assert pairs_of(found, twin, row) == wanted
        assert wanted


def test_only_what_is_learnt_belongs_to_anything_and_one_tokenizer_meets_itself() -> None:
    found, twin = both(BPE, BPE)
    assert (found.learnt[twin.met]).all()
    several = found.learnt & ~twin.met
    assert 0 < several.sum() < 20  # a character's second byte begins nowhere
    _, words = both(BPE, PIECES)
    assert (found.learnt[words.met]).all()
    assert words.met.sum() == words.meets.sum()
    assert 0.2 < words.met.sum() / found.learnt.sum() < 0.9


def test_an_answers_end_is_met_whatever_token_it_is_and_however_a_template_spaces_it() -> None:
    found, twin = both(BPE, PIECES, [chat("How?", "wet")])
    own, other = found.ids[twin.met].tolist(), twin.samples.ids[twin.meets].tolist()
    assert (own[-1], other[-1]) == (BPE.library.eos_token_id, PIECES.library.eos_token_id)


def test_a_cut_text_is_read_in_the_same_pieces() -> None:
    text = "It is wet and it is cold. " * 12
    found, twin = both(BPE, PIECES, [text], most=20)
    whole, uncut = both(BPE, PIECES, [text])
    assert len(found) > 3
    assert len(twin.samples) == len(found)
    assert abs(int(twin.met.sum()) - int(uncut.met.sum())) <= len(found)
    for row in range(len(found)):
        own = BPE.library.decode(found[row][0], skip_special_tokens=True).strip().lower()
        theirs = PIECES.library.decode(twin.samples[row][0], skip_special_tokens=True).strip()
        squeezed = [each.replace(" ", "") for each in (own, theirs)]
        # The first token of either may begin a few characters before the other's.
        assert squeezed[0] in squeezed[1] or squeezed[1] in squeezed[0], (own, theirs)
    assert len(whole) == 1


def test_a_chat_that_lost_its_beginning_loses_as_much_in_the_other_tokens() -> None:
    sample = chat("How are rain and sun? " * 20, "It is wet.")
    whole, uncut = both(BPE, PIECES, [sample])
    found, twin = both(BPE, PIECES, [sample], most=len(whole.ids) // 2)
    share = twin.longest / uncut.longest
    assert abs(share - len(found.ids) / len(whole.ids)) < 0.05
    assert twin.met.sum() == uncut.met.sum()


def test_a_sample_that_the_other_template_refuses_has_no_rows_there() -> None:
    marked = chat("How?", "It is [SEP] wet.")
    found, twin = both(BPE, PIECES, [marked, chat("How?", "It is wet.")])
    assert twin.refused == 1
    assert len(twin.samples) == len(found) == 2
    assert not pairs_of(found, twin, 0)
    assert pairs_of(found, twin, 1)


def test_a_network_that_reads_less_keeps_the_end() -> None:
    samples = [chat("How are rain and sun? " * 20, "It is wet.")]
    found, _ = tokenize(samples, Writer(BPE, "auto", "completion"), 400, placed=True)
    twin = twin_of(found, samples, Writer(PIECES, "auto", "completion"), PIECES.size, 6)
    assert twin.longest == 6
    assert twin.met.sum() == twin.meets.sum() == 5


def test_rows_count_that_all_teachers_have_tokens_for() -> None:
    found, words = both(BPE, PIECES)
    _, spaces = both(BPE, SPACED)
    rows = np.array([2, 0])
    one, other, all_of_them = (
        met_by_all(found, rows, twins) for twins in ({"a": words}, {"b": spaces}, {"a": words, "b": spaces})
    )
    assert (all_of_them == (one & other)).all()
    assert len(one) == sum(int(found[row][1].sum()) for row in rows)
    assert 0 < all_of_them.sum() < len(one)
