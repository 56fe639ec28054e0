"""mdistiller's own trainer, ``mdistiller.engine.BaseTrainer``, with its own networks and KD (Zhao et al., 2022)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pair
import torch
from turns import Turns, given

about = given()
if not about["device"].startswith("cuda"):

    def stays(tensor: Any, *_: Any, **__: Any) -> Any:
        """Return the tensor: the trainer sends every batch to a card, and here is to compute without one."""
        return tensor

    torch.Tensor.cuda = stays
sys.path.insert(0, about["path"])
from mdistiller.distillers import distiller_dict  # noqa: E402
from mdistiller.engine import trainer_dict  # noqa: E402
from mdistiller.engine.cfg import CFG  # noqa: E402
from mdistiller.models import cifar_model_dict  # noqa: E402

turns = Turns(about["steps"], about["device"])
CFG.KD.TEMPERATURE, CFG.KD.LOSS.CE_WEIGHT, CFG.KD.LOSS.KD_WEIGHT = pair.TEMPERATURE, pair.HARD, pair.SOFT
CFG.SOLVER.LR, CFG.SOLVER.MOMENTUM, CFG.SOLVER.WEIGHT_DECAY = (
    pair.SGD[name] for name in ("lr", "momentum", "weight_decay")
)
CFG.LOG.PREFIX, CFG.LOG.WANDB = str(Path(about["work"]) / "mdistiller"), False
student, teacher = (cifar_model_dict[name][0](num_classes=pair.CLASSES) for name in (pair.STUDENT, pair.TEACHER))
distiller = torch.nn.DataParallel(distiller_dict["KD"](student, teacher, CFG).to(about["device"]))
batches = [(images, labels, torch.arange(len(labels))) for images, labels in pair.ready(about["work"])]
loader = turns.over(batches, [len(labels) for _, labels, _ in batches])
trainer_dict["base"]("speed", distiller, loader, None, CFG).train_epoch(1)
