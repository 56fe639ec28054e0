"""Networks in which layers of torch.nn stand in the place of their own: told as text, and made again from it.

A layer is told as its constructor, such as "Linear(in_features=8, out_features=5, bias=True)"; in "Sequential(own,
ReLU())" ``own`` is the layer that stood there before. Reading it runs no code but the constructors of torch.nn.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError

KEY, CONFIG, OWN = "replaced_layers", "config.json", "own"
"""Where they stand in the configuration beside a network's weights, by the layer's dotted name."""


def replaced(plain: nn.Module, changed: nn.Module) -> dict[str, str]:
    """Return by dotted name the layers in which a network differs from another, as text.

    Args:
        plain: the network.
        changed: a copy that shares its tensors, and has other layers in the place of some.

    Raises:
        InputError: a new layer is not made of torch.nn's own.
    """
    return dict(_differences(plain, changed, ""))


def _differences(plain: nn.Module, changed: nn.Module, name: str) -> Iterator[tuple[str, str]]:
    ours, theirs = dict(plain.named_children()), dict(changed.named_children())
    if type(plain) is not type(changed) or ours.keys() != theirs.keys() or not _same_tensors(plain, changed, False):
        if not name:
            raise InputError("what ships must be the student with some of its layers replaced, not another network.")
        yield name, _text(changed, plain)
        return
    for part in ours:
        yield from _differences(ours[part], theirs[part], f"{name}.{part}" if name else part)


def _same_tensors(one: nn.Module, other: nn.Module, all_below: bool) -> bool:
    found = []
    for module in (one, other):
        tensors = [*module.named_parameters(recurse=all_below), *module.named_buffers(recurse=all_below)]
        found.append({name: id(tensor) for name, tensor in tensors})
    return found[0] == found[1]


def _text(layer: nn.Module, own: nn.Module) -> str:
    if type(layer) is type(own) and _same_tensors(layer, own, True):
        return OWN
    if type(layer) is nn.Sequential:
        return f"Sequential({', '.join(_text(part, own) for part in layer)})"
    text = repr(layer)
    try:
        again = made(text, None)
        same = repr(again) == text and _shapes(again) == _shapes(layer)
    except InputError:
        same = False
    if not same:
        raise InputError(f"what ships may have layers of torch.nn in the place of the student's, not {text[:60]}.")
    return text


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def made(text: str, own: nn.Module | None) -> nn.Module:
    """Return the layer that a text tells, with weights of no account; no generator moves.

    Raises:
        InputError: it tells no layer of torch.nn.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return _made(ast.parse(text, mode="eval").body, own)
    except (SyntaxError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{text[:80]!r} tells no layer of torch.nn: {error}") from error


def _made(node: ast.AST, own: nn.Module | None) -> nn.Module:
    if isinstance(node, ast.Name) and node.id == OWN and own is not None:
        return own
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("it is no constructor")
    kind = getattr(nn, node.func.id, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"torch.nn has no {node.func.id}")
    if kind is nn.Sequential:
        return nn.Sequential(*(_made(each, own) for each in node.args))
    plain = [ast.literal_eval(each) for each in node.args]
    named = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    found: nn.Module = kind(*plain, **named)
    return found


def put_in(module: nn.Module, layers: Mapping[str, str]) -> None:
    """Put layers in the place of a network's own.

    Raises:
        InputError: the network has no such layer, or a text tells none.
    """
    for name, text in layers.items():
        above, _, last = name.rpartition(".")
        try:
            holder = module.get_submodule(above)
            setattr(holder, last, made(text, holder.get_submodule(last)))
        except AttributeError as error:
            raise InputError(
                f"this network has no layer {name!r} to replace: it is of another architecture."
            ) from error


def beside(weights: str | Path) -> dict[str, str]:
    """Return the replaced layers that the configuration beside a weights file tells; {} where there are none."""
    try:
        config: Any = json.loads((Path(weights).expanduser().parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = config.get(KEY) if isinstance(config, dict) else None
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def put_in_beside(built: Any, weights: str | Path) -> None:
    """Put into a built network the layers that stand beside a weights file; once, whoever asks."""
    layers = beside(weights)
    if layers != built.replaced:
        put_in(built.module, layers)
        built.replaced = layers


def in_words(layers: Mapping[str, str], network: str = "net") -> str:
    """Return the Python that puts layers into ``network``, a statement each."""
    return "".join(f"{_path(network, name)} = {_code(text, _path(network, name))}; " for name, text in layers.items())


def _path(network: str, name: str) -> str:
    return network + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def _code(text: str, own: str) -> str:
    class Qualified(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            assert isinstance(node.func, ast.Name)
            node.func = ast.Name(f"torch.nn.{node.func.id}", ast.Load())
            return node

        def visit_Name(self, node: ast.Name) -> ast.AST:
            return ast.Name(own, ast.Load()) if node.id == OWN else node

    return ast.unparse(Qualified().visit(ast.parse(text, mode="eval")))


def open_with(plain: str, layers: Mapping[str, str], weights: Path) -> str:
    """Return the line of Python that opens a network with replaced layers.

    Args:
        plain: an expression that makes the network as it was, weights of no account.
        layers: by dotted name.
        weights: the file.
    """
    load = f"net.load_state_dict(safetensors.torch.load_file({str(weights)!r}))"
    return f"net = {plain}; {in_words(layers)}{load}"


def sharing(module: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters and buffers are the very tensors of the original."""
    import copy

    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
