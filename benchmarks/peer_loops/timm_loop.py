"""timm's own epoch, ``train_one_epoch`` of its ``train.py``, on its ``LogitDistillationTask`` (--kd-model-name)."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import pair
import torch
from torch import nn
from turns import Turns, given

about = given()
sys.path.insert(0, about["path"])
import train  # noqa: E402
from timm.optim import create_optimizer_v2, optimizer_kwargs  # noqa: E402
from timm.task import LogitDistillationTask  # noqa: E402

turns = Turns(about["steps"], about["device"])
device = torch.device(about["device"])
rates = ["--lr", pair.SGD["lr"], "--momentum", pair.SGD["momentum"], "--weight-decay", pair.SGD["weight_decay"]]
options = train.parser.parse_args(["--opt", "momentum", *map(str, rates)])
options.prefetcher, options.distributed, options.rank, options.world_size = False, False, 0, 1  # as its main() has it
half = about["precision"] == "bf16"  # --amp --amp-dtype bfloat16
autocast = partial(torch.autocast, device.type, torch.bfloat16) if half else contextlib.suppress
teacher, student = (network.to(device) for network in pair.of_timm())
task = LogitDistillationTask(
    student, teacher, nn.CrossEntropyLoss(), distill_loss_weight=pair.SOFT, task_loss_weight=pair.HARD,
    temperature=pair.TEMPERATURE, device=device,
)  # fmt: skip
optimizer = create_optimizer_v2(student, **optimizer_kwargs(cfg=options))
batches = pair.ready(about["work"])
loader = turns.over(batches, [len(labels) for _, labels in batches])
train.train_one_epoch(0, student, loader, optimizer, options, task=task, device=device, amp_autocast=autocast)
