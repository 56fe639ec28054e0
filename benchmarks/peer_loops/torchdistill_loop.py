"""torchdistill's ``DistillationBox`` and ``KDLoss`` (Matsubara, 2021), in the loop of its own example scripts."""

from __future__ import annotations

import pair
import torch
from torchdistill.core.distillation import get_distillation_box
from turns import Turns, given

about = given()
turns = Turns(about["steps"], about["device"])
teacher, student = (network.to(about["device"]) for network in pair.of_timm())
output = {f"{who}_module_{what}": value for who in ("student", "teacher")
          for what, value in (("path", "."), ("io", "output"))}  # fmt: skip
loss = {"key": "KDLoss", "kwargs": {**output, "temperature": pair.TEMPERATURE, "alpha": pair.HARD, "beta": pair.SOFT}}
config = {
    "num_epochs": 1,
    "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
    "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
    "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
    "optimizer": {"key": "SGD", "kwargs": dict(pair.SGD)},
}
device = torch.device(about["device"])
box = get_distillation_box(teacher, student, {}, config, device, None, False, 1)
box.teacher_model.eval()
batches = [(images, labels, {}) for images, labels in pair.ready(about["work"])]
box.pre_epoch_process(epoch=0)
for images, labels, more in turns.over(batches, [len(labels) for _, labels, _ in batches]):
    images, labels = images.to(device), labels.to(device)
    value = box.forward_process(images, labels, more)
    box.post_forward_process(loss=value)
    value.item()  # as its logger does
