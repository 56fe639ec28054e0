"""What the papers' small networks have in common: parts in a row, some of which end a stage, and a linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers import create_classifier
from torch import Tensor, nn
from torch.nn.functional import dropout


class Chain(nn.Module):
    """A network whose parts run one after another, with timm's interface.

    Args:
        parts: modules by name, in order; each maps (B, C, H, W) to (B, C', H', W').
        stages: for each part that ends a stage, its channels and how many times smaller its map is than the image.
        width: channels of the last part.
        num_classes: K; 0 leaves the classifier out.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier, in [0, 1).
        global_pool: pooling of the last map, as timm names it.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        stages: Mapping[str, tuple[int, int]],
        width: int,
        *,
        num_classes: int = 100,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ):
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.head_hidden_size = width
        self.part_names = list(parts)
        for name, part in parts.items():
            self.add_module(name, part)
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": name}
            for name, (channels, reduction) in stages.items()
        ]
        self.fc: nn.Module
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a new, untrained classifier in the place of the present one."""
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last part's map, (B, width, H, W)."""
        for name in self.part_names:
            x = self.get_submodule(name)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return (B, K) logits, or with ``pre_logits`` the (B, width) embedding, of the last part's map."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = dropout(x, self.drop_rate, self.training)
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
        """Return the last part's map and the maps at the ends of stages, or these alone; as timm's networks do.

        Args:
            x: (B, in_chans, H, W).
            indices: which stages: the last n, those of a list, or all of them.
            norm: accepted for timm's sake.
            stop_early: leave out the parts after the last of these stages.
            output_fmt: only "NCHW".
            intermediates_only: return the list alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r} is not available; maps are NCHW.")
        taken = stage_numbers(indices, len(self.feature_info))
        ends = [str(info["module"]) for info in self.feature_info]
        maps: dict[int, Tensor] = {}
        for name in self.part_names:
            x = self.get_submodule(name)(x)
            if name in ends and ends.index(name) in taken:
                maps[ends.index(name)] = x
            if stop_early and name == ends[max(taken)]:
                break
        found = [maps[index] for index in sorted(maps)]
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the parts after the last of these stages, and the classifier; return the stages' numbers."""
        taken = stage_numbers(indices, len(self.feature_info))
        last = self.part_names.index(str(self.feature_info[max(taken)]["module"]))
        for name in self.part_names[last + 1 :]:
            delattr(self, name)
        self.part_names = self.part_names[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return taken


def stage_numbers(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Return which of ``count`` stages timm's ``indices`` mean: all, the last n, or those of a list.

    Raises:
        IndexError: there is no such stage.
    """
    every = range(count)
    if indices is None:
        return list(every)
    return list(every[-indices:]) if isinstance(indices, int) else [every[index] for index in indices]


def he_normal(network: nn.Module, head_std: float | None = None) -> None:
    """Draw convolutions' weights from N(0, 2 / fan-out) (He et al., ICCV 2015); their biases start at zero.

    Args:
        network: its batch norms keep torch's start, weight 1 and bias 0.
        head_std: deviation of linear layers' weights, whose biases then start at zero too; None: torch's own start.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and head_std is not None:
            nn.init.normal_(module.weight, std=head_std)
            nn.init.zeros_(module.bias)
