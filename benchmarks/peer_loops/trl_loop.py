"""TRL's own ``GKDTrainer`` on given text (lmbda=0), without the gradient checkpointing that it has by default."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import words
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer
from turns import Turns, given


class TakesTurns(TrainerCallback):
    """Waits after every block of steps; the trainer itself asks for a batch before it needs it."""

    def __init__(self, turns: Turns, tokens: int):
        self.turns, self.tokens = turns, tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.samples += self.tokens
        if state.global_step % self.turns.steps == 0:
            self.turns.wait()


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch as the trainer's own collator makes it of samples without a prompt."""
    ids_BL = torch.tensor([sample["input_ids"] for sample in samples])
    return {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL), "labels": ids_BL.clone()}


def main() -> None:
    """Train in blocks until nobody asks for one."""
    about = given()
    turns = Turns(about["steps"], about["device"])
    teacher, student = words.networks(about["work"])
    batches = words.ready(about["work"])
    samples = Dataset.from_dict({"input_ids": [row.tolist() for ids_BL in batches for row in ids_BL]})
    folder = Path(about["work"])
    options = GKDConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=words.BATCH, max_steps=1_000_000, lmbda=0.0,
        beta=words.BETA, temperature=words.TEMPERATURE, learning_rate=words.RATE, lr_scheduler_type="constant",
        weight_decay=0.01, max_grad_norm=0.0, gradient_checkpointing=False, bf16=about["precision"] == "bf16",
        use_cpu=not about["device"].startswith("cuda"), logging_strategy="no", save_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_drop_last=True,
    )  # fmt: skip
    random.seed(0)  # it draws whether a batch is the student's own; at lmbda=0 none is
    GKDTrainer(
        student, teacher, options, collate, samples, processing_class=AutoTokenizer.from_pretrained(folder / "student"),
        callbacks=[TakesTurns(turns, batches[0][:, 1:].numel())],
    ).train()  # fmt: skip


if __name__ == "__main__":
    main()
