"""A loop as one writes it for oneself: transformers' networks, the loss in chunks of rows, AdamW, and nothing else."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import words
from torch import Tensor
from torch.nn.functional import log_softmax
from turns import Turns, given

CHUNK = 128
"""Rows whose logits are there at once."""


def divergence(student_NV: Tensor, teacher_NV: Tensor, beta: float) -> Tensor:
    """Return the generalised Jensen-Shannon divergence (Agarwal et al., 2024, Eq. 1), summed over rows."""
    log_s, log_t = log_softmax(student_NV.float(), -1), log_softmax(teacher_NV.float(), -1)
    s, t = log_s.exp(), log_t.exp()
    log_m = ((1 - beta) * s + beta * t).log()
    return beta * (t * (log_t - log_m)).sum() + (1 - beta) * (s * (log_s - log_m)).sum()


def step(student: Any, teacher: Any, ids_BL: Tensor, context: AbstractContextManager[Any]) -> None:
    """Leave in the student's parameters the gradient of the mean over all tokens but each sample's first."""
    with context:
        hidden_ND = student.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        with torch.no_grad():
            taught_ND = teacher.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    leaf_ND = hidden_ND.detach().requires_grad_()
    for mine, theirs in zip(leaf_ND.split(CHUNK), taught_ND.split(CHUNK), strict=True):
        with context:
            student_NV = student.lm_head(mine)
            with torch.no_grad():
                teacher_NV = teacher.lm_head(theirs)
        (divergence(student_NV, teacher_NV, words.BETA) / len(leaf_ND)).backward()
    hidden_ND.backward(leaf_ND.grad)


def main() -> None:
    """Train in blocks until nobody asks for one."""
    about = given()
    turns = Turns(about["steps"], about["device"])
    device = torch.device(about["device"])
    teacher, student = (network.to(device) for network in words.networks(about["work"]))
    teacher.eval().requires_grad_(False)
    student.train()
    context: Any = torch.autocast(device.type, torch.bfloat16) if about["precision"] == "bf16" else nullcontext()
    optimizer = torch.optim.AdamW(student.parameters(), lr=words.RATE, fused=True)
    batches = words.ready(about["work"])
    for ids_BL in turns.over(batches, [ids[:, 1:].numel() for ids in batches]):
        step(student, teacher, ids_BL.to(device), context)
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
