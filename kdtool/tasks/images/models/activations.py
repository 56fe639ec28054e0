"""Where a stage's feature stands before its activation: at the stage's end, or at the beginning of the next block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kdtool.tasks.common.hooked import Point, first_tensor
from kdtool.tasks.images.models.taps import Stages

_HOMES = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
_NOT_ELEMENTWISE = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.GLU, nn.MultiheadAttention)


@dataclass(frozen=True)
class _Call:
    """A module's call: the very tensors that it took and gave. An activation in place has one for both."""

    name: str
    taken: Tensor | None
    given: Tensor | None


def before_activation(module: nn.Module, images: Tensor, stages: Stages, index: int) -> Point | None:
    """Return where a stage's feature is found before its activation.

    A stage that ends in an activation (ResNet) is read before that. Where the next block begins with a norm and an
    activation (pre-activation networks, Wide ResNet), the feature is what comes out of that norm: of the stage's own
    sum the activation never decides.

    Args:
        module: the plain network.
        images: (B, 3, H, W) for a forward.
        stages: the network's, as ``find_stages`` gives them.
        index: which stage.

    Returns:
        None where no activation module follows (linear bottlenecks, transformer blocks, functional activations).
    """
    calls, feature = _watched(module, images, stages, index)
    activations = [call for call in calls if _is_activation(module.get_submodule(call.name))]
    ends = [call for call in activations if call.given is feature]
    if ends:
        return Point(ends[-1].name, before=True)
    for norm in (call for call in calls if call.taken is feature and _is_norm(module.get_submodule(call.name))):
        for call in activations:
            if call.name.startswith(f"{norm.name}."):  # a norm that brings its activation along
                return Point(call.name, before=True)
            if call.taken is norm.given and call.taken is not None:
                return Point(norm.name)
    return None


def _watched(module: nn.Module, images: Tensor, stages: Stages, index: int) -> tuple[list[_Call], Tensor | None]:
    """Return the calls of one forward, in the order in which they ended, and the stage's feature."""
    calls: list[_Call] = []
    taken: dict[str, Tensor | None] = {}
    handles = []
    for name, child in module.named_modules():
        if not name:
            continue

        def before(_: nn.Module, inputs: object, name: str = name) -> None:
            taken[name] = first_tensor(inputs)

        def after(_: nn.Module, __: object, output: object, name: str = name) -> None:
            calls.append(_Call(name, taken.get(name), first_tensor(output)))

        handles += [child.register_forward_pre_hook(before), child.register_forward_hook(after)]
    try:
        if stages.names:
            module(images)
            ran = [call.given for call in calls if call.name == stages.names[index]]
            return calls, ran[-1] if ran else None
        last, maps = module.forward_intermediates(images, indices=[index])  # type: ignore[operator]
        module.forward_head(last)  # type: ignore[operator]
        return calls, maps[0]
    finally:
        for handle in handles:
            handle.remove()


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in _HOMES and not isinstance(module, _NOT_ELEMENTWISE)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm))
