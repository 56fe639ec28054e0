"""Tokenizers: a model's own, or a byte-level one trained on the data."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, first_line
from kdtool.tasks.common import extra

TASK, FILE, GGUF = "language", "tokenizer.json", ".gguf"

START, END = "<|im_start|>", "<|im_end|>"
"""The special tokens of a tokenizer that is trained on the data; the second ends a turn, and a text, and pads."""

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Its chat template: ChatML."""

AT_ONCE = 1000
"""Texts that are given to the library at once."""


@dataclass(frozen=True)
class Encoded:
    """A text in tokens.

    Attributes:
        ids: their numbers.
        spans: where in the text each stands, (first character, one past the last).
    """

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer.

    Attributes:
        library: of transformers, backed by the library ``tokenizers``.
        most: how many word vectors its model has, where it is one's own; transformers may add tokens without one.
        longest: how many tokens its model reads at once, where that is known.
    """

    library: Any
    most: int | None = None
    longest: int | None = None

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides what a chat or a text becomes."""
        decides = [self.library.backend_tokenizer.to_str(), self.template, self.end, self.start]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    @property
    def size(self) -> int:
        """How many tokens a network can know, from number 0 on."""
        there = max(self.by_number) + 1
        return there if self.most is None else min(there, self.most)

    @cached_property
    def by_number(self) -> dict[int, str]:
        """Each token by its number."""
        return {number: token for token, number in self.library.get_vocab().items()}

    @property
    def template(self) -> str | None:
        """Its chat template."""
        found = self.library.chat_template
        return found if isinstance(found, str) else None

    @property
    def end(self) -> str | None:
        """The token that ends a text."""
        found: str | None = self.library.eos_token
        return found

    @cached_property
    def start(self) -> list[int]:
        """What it puts in front of every text by itself."""
        whole = self.library("a").input_ids
        bare = self.library("a", add_special_tokens=False).input_ids
        found: list[int] = whole[: len(whole) - len(bare)] if whole[len(whole) - len(bare) :] == bare else []
        return found

    @cached_property
    def special(self) -> list[str]:
        """Its special tokens."""
        return list(self.library.all_special_tokens)

    def encode(self, texts: Sequence[str]) -> Iterable[Encoded]:
        """Yield each text's tokens; nothing is added, and special tokens in a text are read as such."""
        for begin in range(0, len(texts), AT_ONCE):
            found = self.library(
                list(texts[begin : begin + AT_ONCE]), add_special_tokens=False, return_offsets_mapping=True,
                return_attention_mask=False, return_token_type_ids=False, verbose=False,
            )  # fmt: skip
            for ids, spans in zip(found["input_ids"], found["offset_mapping"], strict=True):
                yield Encoded(ids, spans)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        return str(self.library.decode(ids, skip_special_tokens=True))

    def chat(self, turns: Sequence[dict[str, str]], prompt: bool = False) -> str:
        """Return messages as the chat template writes them; ``prompt``: with the head of the assistant's next turn."""
        return str(self.library.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=prompt))

    @cached_property
    def files(self) -> dict[str, str]:
        """What transformers opens it from, by file name."""
        with tempfile.TemporaryDirectory() as folder:
            self.library.save_pretrained(folder)
            found = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
        settings = json.loads(found["tokenizer_config.json"])
        for key in ("is_local", "local_files_only"):  # how it was opened, not what it is
            settings.pop(key, None)
        found["tokenizer_config.json"] = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        return found


def of_folder(name: str) -> Tokens:
    """Return the tokenizer of a model of the hub, of a local folder, or of a .gguf file.

    Raises:
        InputError: it has none that the library ``tokenizers`` can run.
    """
    transformers = extra.transformers(TASK)
    folder, more = gguf(name)
    with extra.quiet():
        try:
            found = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, **more)
        except Exception as error:  # of any of a dozen kinds, from any of a dozen libraries
            known = f"the folder {name!r}" if Path(name).is_dir() else f"the model {name!r}"
            raise InputError(f"{known} has no tokenizer that transformers can open ({first_line(error)}).") from error
    if getattr(found, "backend_tokenizer", None) is None:
        raise InputError(f"the tokenizer of {name} is not of the library tokenizers (a {FILE}).")
    found.backend_tokenizer.no_padding()
    found.backend_tokenizer.no_truncation()
    return Tokens(found, *_sizes(folder, more))


def _sizes(folder: str, more: dict[str, str]) -> tuple[int | None, int | None]:
    """Return how many word vectors and positions a model has; None: there is no model beside the tokenizer."""
    transformers = extra.transformers(TASK)
    with extra.quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **more)
        except Exception:  # what is wrong with it is told where it is built
            return None, None
    text = config.get_text_config()
    return getattr(text, "vocab_size", None), getattr(text, "max_position_embeddings", None)


def gguf(name: str) -> tuple[str, dict[str, str]]:
    """Return what transformers is to open, and how: a .gguf file is told apart from its folder.

    Raises:
        InputError: it is such a file, and is missing, or the package that reads it is.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() != GGUF:
        return str(path) if path.is_dir() else name, {}
    if not path.is_file():
        raise InputError(f"there is no file {name!r}.")
    if any(find_spec(package) is None for package in ("gguf", "accelerate")):
        raise InputError(f"{name}: reading a .gguf file needs: pip install 'kdtool[language]'.")
    return str(path.parent), {"gguf_file": path.name}


def trained_on(texts: Iterable[str], size: int) -> Tokens:
    """Return a byte-level byte-pair encoding whose vocabulary follows from the texts alone.

    As GPT-2's (Radford et al., 2019): every text can be written in it. Words are counted and sorted first, so that the
    order in which merges are found differs from process to process no more than the texts do.

    Args:
        texts: of the training set.
        size: how many tokens at most, special ones included.
    """
    transformers = extra.transformers(TASK)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    backend = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=[END, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    backend.train_from_iterator((word for word in sorted(words) for _ in range(words[word])), trainer)
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    found.chat_template = TEMPLATE
    return Tokens(found)
