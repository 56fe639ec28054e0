"""Tokenizers: a model's own, or a WordPiece trained on the data; what a batch of texts is to a network."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, first_line
from kdtool.tasks.common import extra

Text = str | tuple[str, str]
"""A text, or a pair of them."""

FILE = "tokenizer.json"
SPECIAL = {"pad": "[PAD]", "unknown": "[UNK]", "first": "[CLS]", "separator": "[SEP]", "mask": "[MASK]"}
"""The tokens that a WordPiece trained on the data adds, as BERT's."""


@dataclass(frozen=True)
class Encoded:
    """A text as a network reads it.

    Attributes:
        ids: of its tokens, special ones included.
        types: 0 for the first text's tokens, 1 for the second's.
        spans: where in the text each token stands, (first character, one past the last); (0, 0) for special tokens.
    """

    ids: list[int]
    types: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer without padding.

    Attributes:
        backend: of the library ``tokenizers``.
        pad: number of the padding token.
        mask: text of the token that hides a word; None: it has none.
        max_length: tokens of a text at most; longer ones are cut at their end, the longer one of a pair first.
        settings: what transformers keeps beside ``tokenizer.json``.
    """

    backend: Any
    pad: int
    mask: str | None
    max_length: int
    settings: str

    def __post_init__(self) -> None:
        self.backend.no_padding()
        self.backend.enable_truncation(self.max_length)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides what a text becomes."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    @property
    def size(self) -> int:
        """V: how many tokens there are."""
        return int(self.backend.get_vocab_size())

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Return each text's tokens."""
        found = self.backend.encode_batch(list(texts))
        return [Encoded(each.ids, each.type_ids, each.offsets) for each in found]

    @property
    def files(self) -> dict[str, str]:
        """What transformers opens it from, by file name."""
        return {FILE: self.backend.to_str(pretty=True) + "\n", "tokenizer_config.json": self.settings}


def of_folder(name: str, max_length: int) -> Tokens:
    """Return the tokenizer of a model of the hub or of a local folder.

    Raises:
        InputError: it has none that the library ``tokenizers`` can run.
    """
    transformers = extra.transformers()
    with extra.quiet():
        try:
            found = transformers.AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
        except Exception as error:  # of any of a dozen kinds, from any of a dozen libraries
            known = f"the folder {name!r}" if Path(name).is_dir() else f"unknown model {name!r}: it"
            raise InputError(f"{known} has no tokenizer that transformers can open ({first_line(error)}).") from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"the tokenizer of {name} is not of the library tokenizers (a tokenizer.json).")
    from tokenizers import Tokenizer

    pad = found.pad_token_id if found.pad_token_id is not None else 0  # padding is hidden by the mask, whatever it is
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    settings |= {key: str(value) for key, value in found.special_tokens_map.items() if isinstance(value, str)}
    settings |= {"model_input_names": list(found.model_input_names)}
    own = Tokenizer.from_str(backend.to_str())
    return Tokens(own, pad, found.mask_token, max_length, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def of_file(path: Path, max_length: int) -> Tokens:
    """Return the tokenizer of a folder that kdtool wrote, or of a ``tokenizer.json``.

    Raises:
        InputError: there is none.
    """
    if path.is_file() and path.name != FILE:
        raise InputError(f"{path} is no {FILE}: name one, or a folder that holds one.")
    path = path if path.is_file() else path / FILE
    if not path.is_file():
        raise InputError(f"there is no {path}.")
    return of_folder(str(path.parent), max_length)


def of_size(size: int, max_length: int) -> Tokens:
    """Return a tokenizer that is of use for its size alone: networks that are only timed need no words.

    Args:
        size: V.
        max_length: tokens of a text at most.
    """
    extra.transformers()
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({str(number): number for number in range(size)}, unk_token="0"))
    return Tokens(backend, 0, None, max_length, "{}\n")


def trained_on(texts: Iterable[str], size: int, max_length: int) -> Tokens:
    """Return a WordPiece of lower-case words, whose vocabulary follows from the texts alone.

    The library's own trainer breaks ties by an order that differs from process to process; its byte-pair encoding
    without prefixes does not. So the pieces are those into which that cuts the words, the most frequent ones and every
    character; words then are cut as WordPiece does, the longest known piece first (Wu et al., 2016).

    Args:
        texts: of the training set.
        size: how many tokens at most, but for single characters.
        max_length: tokens of a text at most.
    """
    extra.transformers()
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    pairs = Tokenizer(models.BPE())
    pairs.train_from_iterator(
        (word for word in sorted(words) for _ in range(words[word])),
        trainers.BpeTrainer(vocab_size=size, show_progress=False),
    )
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        first, *rest = pairs.encode(word).tokens or [word]
        for piece in (first, *(f"##{each}" for each in rest)):
            pieces[piece] += count
    letters = sorted({letter for word in words for letter in word})
    kept = dict.fromkeys([*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters)])
    for piece, _ in sorted(pieces.items(), key=lambda each: (-each[1], each[0])):
        if len(kept) >= size:
            break
        kept[piece] = None
    vocabulary = {piece: number for number, piece in enumerate(kept)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unknown"], max_input_chars_per_word=100))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    first, separator = SPECIAL["first"], SPECIAL["separator"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {separator}",
        pair=f"{first} $A {separator} $B:1 {separator}:1",
        special_tokens=[(each, vocabulary[each]) for each in (first, separator)],
    )
    backend.add_special_tokens(list(SPECIAL.values()))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length, "pad_token": SPECIAL["pad"],
        "unk_token": SPECIAL["unknown"], "cls_token": first, "sep_token": separator, "mask_token": SPECIAL["mask"],
    }  # fmt: skip
    return Tokens(
        backend, vocabulary[SPECIAL["pad"]], SPECIAL["mask"], max_length, json.dumps(settings, indent=2) + "\n"
    )
