"""RepDistiller's own epoch, ``helper.loops.train_distill``, with its own networks and loss (Tian et al., 2020)."""

from __future__ import annotations

import argparse
import sys

import pair
import torch
from torch import nn
from turns import Turns, given

about = given()
sys.path.insert(0, about["path"])
from distiller_zoo import DistillKL  # noqa: E402
from helper.loops import train_distill  # noqa: E402
from models import model_dict  # noqa: E402

turns = Turns(about["steps"], about["device"])
student, teacher = (model_dict[name](num_classes=pair.CLASSES).to(about["device"])
                    for name in (pair.STUDENT, pair.TEACHER))  # fmt: skip
batches = [(images, labels, torch.arange(len(labels))) for images, labels in pair.ready(about["work"])]
losses = [nn.CrossEntropyLoss(), DistillKL(pair.TEMPERATURE), DistillKL(pair.TEMPERATURE)]
options = argparse.Namespace(distill="kd", gamma=pair.HARD, alpha=pair.SOFT, beta=0, print_freq=100)
optimizer = torch.optim.SGD(student.parameters(), **pair.SGD)
loader = turns.over(batches, [len(labels) for _, labels, _ in batches])
train_distill(1, loader, nn.ModuleList([student, teacher]), nn.ModuleList(losses), optimizer, options)
