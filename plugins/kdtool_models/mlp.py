"""The multi-layer perceptrons of Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdtool_models.chain import stage_numbers


class MLP(nn.Module):
    """Fully connected layers of ReLUs on the pixels of a grey image.

    Args:
        hidden: units of each hidden layer.
        num_classes: K; 0 leaves the classifier out.
        in_chans: channels that images come with; they are averaged.
        img_size: pixels a side.
        drop_rate: dropout of hidden units, in [0, 1).
        input_drop_rate: dropout of pixels, in [0, 1).
        max_norm: largest norm of the weights that go into a hidden unit; larger ones are scaled down as each training
            step begins (the paper's weight constraint). None: no limit.
        global_pool: accepted for timm's sake; there is nothing to pool.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 28,
        drop_rate: float = 0.0,
        input_drop_rate: float = 0.0,
        max_norm: float | None = None,
        global_pool: str = "",
    ):
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[-1]
        self.num_classes, self.in_chans = num_classes, in_chans
        self.drop_rate, self.input_drop_rate, self.max_norm = drop_rate, input_drop_rate, max_norm
        self.num_features = self.head_hidden_size = hidden[-1]
        widths = [side**2, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden, strict=False))
        self.feature_info = [
            {"num_chs": width, "reduction": side, "module": f"hidden.{number}"} for number, width in enumerate(hidden)
        ]
        self.fc: nn.Module
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "") -> None:
        """Put a new, untrained classifier in the place of the present one."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _layers(self, x: Tensor) -> list[Tensor]:
        """Return each hidden layer's units, (B, width)."""
        if self.training and self.max_norm is not None:
            self._constrain(self.max_norm)
        x = x.mean(1).flatten(1)
        if self.training and self.input_drop_rate:
            x = dropped(x, self.input_drop_rate)
        found = []
        for layer in self.hidden:
            x = layer(x).relu()
            if self.training and self.drop_rate:
                x = dropped(x, self.drop_rate)
            found.append(x)
        return found

    @torch.no_grad()
    def _constrain(self, limit: float) -> None:
        for layer in self.hidden:
            layer.weight.copy_(layer.weight.renorm(2, 0, limit))  # type: ignore[operator]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, (B, width)."""
        return self._layers(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return (B, K) logits of the last hidden layer, or with ``pre_logits`` that layer."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the last hidden layer and those asked for, as maps (B, width, 1, 1); see ``Chain``."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r} is not available; maps are NCHW.")
        layers = self._layers(x)
        maps = [layers[number][:, :, None, None] for number in sorted(stage_numbers(indices, len(layers)))]
        return maps if intermediates_only else (layers[-1], maps)


def dropped(x: Tensor, rate: float) -> Tensor:
    """Return ``x`` with entries dropped and the others scaled up; on a CPU in half the time of torch's own."""
    return x * ((torch.rand(x.shape, device=x.device) >= rate) / (1 - rate)).to(x.dtype)
