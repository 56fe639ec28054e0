"""The recipe's keys that language models bring. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from kdtool.recipe import schema
from kdtool.recipe.options import OUTPUTS, STUDENT, TEACHER, option
from kdtool.recipe.schema import EVERYTHING

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-tiny": {
        "num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 256,
    },
    "llama-mini": {
        "num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2,
        "intermediate_size": 512,
    },
}  # fmt: skip
"""Networks from scratch, of LLaMA's layers (Touvron et al., 2023) with grouped queries and one matrix for words and
head."""

MODEL = (
    f"{' or '.join(CONFIGS)} (from scratch); a causal language model of transformers by hub name or local folder; or a "
    ".gguf file"
)

FINE_TUNE_LR = 1e-4
"""The peak rate of Muralidharan et al., 2024, who distil into cut models."""


@dataclass
class Teacher(schema.Teacher):
    fine_tune_lr = FINE_TUNE_LR

    model: str = option("llama-mini", MODEL)
    prefix: Optional[str] = option(
        None, "a file with a text that the teacher reads before every sample, and the student does not", late=True
    )
    demonstrations: int = option(
        0,
        "so many solved training samples, drawn by data.view_seed, that the teacher reads before every other sample, "
        "and the student does not",
        min=0, late=True,
    )  # fmt: skip


@dataclass
class Cut:
    """A student that is a part of the first teacher."""

    layers: Optional[int] = option(None, "keep so many of the teacher's layers, evenly spaced; none: all", min=1)
    width: float = option(
        1.0, "share of attention heads and of hidden neurons to keep, those that are most active on the data",
        min=0.01, max=1.0,
    )  # fmt: skip

    @property
    def wanted(self) -> bool:
        """Whether anything is to be cut."""
        return self.layers is not None or self.width < 1.0


@dataclass
class Lora:
    """Low-rank updates that are trained in place of the student's weights, and shipped added to them."""

    rank: int = option(0, "rank of the updates; 0: none, the weights themselves are trained", min=0)
    alpha: float = option(16.0, "the updates are multiplied by alpha / rank", min=0.0)


@dataclass
class Student(schema.Student):
    fine_tune_lr = FINE_TUNE_LR

    model: str = option("llama-tiny", MODEL)
    tokenizer: str = option(
        "auto", "auto: the model's, else the first teacher's, else one trained on the data; own: that; or a folder"
    )
    lora: Lora = option(Lora, "train low-rank updates only; pip install 'kdtool[lora]'")
    checkpointing: bool = option(
        False, "compute each layer again in the backward pass in place of keeping what it gave, to save memory"
    )
    from_teacher: Cut = option(Cut, "cut the student out of the first teacher instead; model then stays as it is")


@dataclass
class Data(schema.Data):
    on_policy: Optional[float] = option(
        None,
        "share of the batches whose answers the student writes itself, and learns from the teacher's view of them; "
        "none: as the method says",
        min=0.0, max=1.0, decides=(STUDENT,), late=True,
    )  # fmt: skip
    on_policy_tokens: int = option(
        128, "tokens that the student writes of an answer at most", min=1, decides=(STUDENT,), late=True
    )
    teacher_tokens: int = option(
        256, "tokens of an answer at most, where a method learns what the teacher writes", min=1, decides=(STUDENT,),
        late=True,
    )  # fmt: skip
    teacher_temperature: float = option(
        0.0, "temperature at which the teacher's answers are drawn, by data.view_seed; 0: the likeliest token",
        min=0.0, decides=(STUDENT,), late=True,
    )  # fmt: skip
    on_policy_temperature: float = option(
        1.0, "temperature at which the student's own answers are drawn", min=0.01, decides=(STUDENT,), late=True
    )
    on_policy_texts: str = option(
        "written",
        "plain texts in a batch that the student writes; written: it writes their second half; given: they stay as "
        "they are, and are learnt by the weight of the hard labels",
        choices=("written", "given"), decides=(STUDENT,), late=True,
    )  # fmt: skip
    name: str = option(
        "pydocs",
        "pydocs, a .jsonl, .jsonl.gz, .parquet or .txt file, a folder of them, or hf/NAME[:CONFIGURATION]; with "
        "train.steps a folder of shards",
    )
    max_bad: float = option(
        0.01,
        "share of a split's lines that may be unreadable; they are left out and listed in bad-lines.jsonl",
        min=0.0,
        max=1.0,
        decides=(TEACHER, STUDENT),
    )
    max_length: int = option(
        512, "tokens of a sample at most: of a longer one the last are kept, and a plain text is cut into pieces",
        min=4, decides=EVERYTHING,
    )  # fmt: skip
    vocab_size: int = option(2000, "entries of a tokenizer that is trained on the data", min=300, decides=EVERYTHING)
    template: str = option(
        "auto", "how messages become text; auto: by the tokenizer's chat template, where it has one; plain: without",
        choices=("auto", "chat", "plain"), decides=EVERYTHING,
    )  # fmt: skip
    loss_on: str = option(
        "completion",
        "which tokens are learnt: completion: the assistant's, all of a plain text; last: its last turn; all: all",
        choices=("completion", "last", "all"),
        decides=EVERYTHING,
    )
    packing: bool = option(
        False, "put several samples into one sequence, none of which sees another", decides=(OUTPUTS, STUDENT)
    )
