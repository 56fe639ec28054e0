"""Knowledge Distillation Based on Transformed Teacher Matching, weighted. Zheng & Yang, ICLR 2024.
https://arxiv.org/abs/2402.11148

``ttm`` with a weight for each sample: the power sum of the teacher's probabilities, larger where the teacher is less
sure. The paper tunes T and the weight by pair; the defaults here, T = 5 and 4, are the only ones in the example of the
authors' code, where the term stands beside CRD.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdtool import Batch, Method, option
from kdtool.losses import ensemble_logits
from kdtool_methods.ttm import weighted_transformed_kl


class WTTM(Method):
    """TTM in which a sample counts for more where the teacher is less sure."""

    api = 1
    paper = "Zheng & Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2402.11148"
    equation = (
        "cross-entropy + weight · U · KL(softmax(teacher / T) || softmax(student)), U: sum of softmax(teacher)^(1 / T)"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        temperature: float = option(5.0, "T of the teacher alone, 1 / gamma of the paper", min=0.01)
        weight: float = option(4.0, "beta, weight of the soft term", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        teacher = ensemble_logits([out.logits for out in batch.teachers])  # as in TTM, at T = 1
        kl = weighted_transformed_kl(batch.student.logits, teacher, self.cfg.temperature)
        return {"kl": self.cfg.weight * kl}
