"""A few chats, tiny networks, and a tokenizer of a few hundred tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdtool.recipe import load as recipes
from kdtool.registry import tasks
from kdtool.tasks.language.data.chats import Chat
from kdtool.tasks.language.models.tokens import Tokens, trained_on
from kdtool.tasks.language.specimens import THINGS

SIZES = {
    "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 24,
}  # fmt: skip
LARGER = {**SIZES, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
TASK = tasks.get("language")


def chats(path: Path, count: int = 40, repeat: int = 1) -> Path:
    """Write chats on how things are."""
    names = list(THINGS)
    lines = []
    for row in range(count):
        name, other = names[row % len(names)], names[row * 3 % len(names)]
        answer = f"It is {THINGS[name]} and {THINGS[other]}. " * (1 + row % 3) * repeat
        turns = [("user", f"How are {name} and {other}? ({row})"), ("assistant", answer.strip())]
        lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe(data: Path | str, **more: Any) -> Any:
    """Return a recipe of tiny networks; keys with ``__`` for a dot."""
    given = {
        "task": "language", "data.name": str(data), "data.vocab_size": 300, "data.max_length": 64,
        "student.model_args": SIZES, "teacher.model_args": LARGER, "teacher.model": "llama-tiny",
        "train.device": "cpu", "train.batch_size": 8,
    }  # fmt: skip
    return recipes.from_dict({**given, **{key.replace("__", "."): value for key, value in more.items()}})


def tokens() -> Tokens:
    """Return a tokenizer whose end token pads."""
    return trained_on([f"{a} is {b}. How are you? user assistant" for a, b in THINGS.items()], 300)


def chat(*turns: str) -> Chat:
    """Return turns of the user and the assistant in alternation."""
    return Chat(tuple((("user", "assistant")[i % 2], text) for i, text in enumerate(turns)))


def saved(folder: Path, found: Tokens, seed: int = 0, rows: int | None = None, **sizes: float) -> Path:
    """Write a tiny causal language model with a tokenizer as transformers does."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=rows or found.size, tie_word_embeddings=True, **{**SIZES, **sizes})
    LlamaForCausalLM(config).save_pretrained(folder)
    found.library.save_pretrained(folder)
    return folder


def wordpiece(lines: Sequence[str] = (), size: int = 200) -> Tokens:
    """Return a tokenizer of another kind: words in lower case and their ends, without white space, another template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [*lines, *(f"It is {each}. How are {name}? user assistant" for name, each in THINGS.items())]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[SEP]", "[ASK]"]
    backend.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    library = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]",
        additional_special_tokens=["[ASK]"],
    )  # fmt: skip
    library.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'so: ' + message['content'] + "
        "' [SEP]' }}{% else %}{{ '[ASK] ' + message['content'] + ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'so: ' }}{% endif %}"
    )
    return Tokens(library)


def unigram(lines: Sequence[str] = (), size: int = 150) -> Tokens:
    """Return a tokenizer of a third kind, whose spaces are tokens or begin one, without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [*lines, *(f"It is {each}. How are {name}? user assistant" for name, each in THINGS.items())]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=size, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False,
            initial_alphabet=[chr(each) for each in range(32, 127)],
        ),
    )  # fmt: skip
    return Tokens(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))
