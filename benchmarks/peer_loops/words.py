"""The language models' pair, random text in a vocabulary of numbered words, and what all loops train it with.

Teacher and vocabulary have the sizes of SmolLM2-135M (Allal et al., 2025), the student 17 million parameters. Weights
are random, for what a network knows costs nothing; so nothing has to be downloaded.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

VOCABULARY, LENGTH, BATCH = 49152, 256, 4
TEACHER = {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
           "intermediate_size": 1536}  # fmt: skip
STUDENT = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4,
           "intermediate_size": 1024}  # fmt: skip
BETA, TEMPERATURE, RATE = 0.5, 1.0, 1e-3
"""Of the generalised Jensen-Shannon divergence (Agarwal et al., 2024), and the learning rate of AdamW."""
END = "<|im_end|>"


def write(work: Path, samples: int = 4 * BATCH) -> None:
    """Write a teacher with its tokenizer as transformers opens it, and texts of ``LENGTH`` tokens each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {END: 0, **{f"w{number}": number for number in range(1, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(words, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
    torch.manual_seed(0)
    config = LlamaConfig(**TEACHER, vocab_size=VOCABULARY, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0,
                         bos_token_id=0, max_position_embeddings=2048)  # fmt: skip
    for made in (LlamaForCausalLM(config), tokens):
        made.save_pretrained(work / "teacher")
    draw = random.Random(0)
    (work / "texts").mkdir(exist_ok=True)
    for split, count in (("train", samples), ("test", BATCH)):
        lines = (" ".join(f"w{draw.randrange(1, VOCABULARY)}" for _ in range(LENGTH - 1)) for _ in range(count))
        written = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (work / "texts" / f"{split}.jsonl").write_text(written)


def ready(work: str) -> list[torch.Tensor]:
    """Return the batches, (B, L) tokens each, all of which are learnt but the first of a sample."""
    found: list[torch.Tensor] = torch.load(Path(work) / "words.pt")
    return found


def networks(work: str) -> tuple[Any, Any]:
    """Return teacher and student as transformers opens them, the student as kdtool begins."""
    from transformers import AutoModelForCausalLM

    made = [AutoModelForCausalLM.from_pretrained(Path(work) / who, dtype=torch.float32) for who in
            ("teacher", "student")]  # fmt: skip
    return made[0], made[1]
