"""Weights from files: read safely, and fitted to a network with errors that a person can act on."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.errors import InputError, did_you_mean, first_line
from kdtool.tasks.common.replaced import put_in_beside
from kdtool.tasks.common.weight_names import counts, matched

if TYPE_CHECKING:
    from kdtool.tasks.task import Built


def _numpy(name: str) -> Any:
    """Return a function of numpy's that its pickles name, wherever this version of numpy keeps it."""
    core = importlib.import_module("numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray")
    return getattr(core, name)


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stand in for a mapping that makes what it lacks."""
    return {}


NESTED = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state_dict", "net", "module")
"""Keys under which training scripts keep the weights, in the order in which they are looked for: those averaged over
training first, as timm's ``load_state_dict`` takes them."""

HARMLESS: list[Any] = [
    *(argparse.Namespace, SimpleNamespace, list, dict, set, int, float, str, bool),
    *(PurePosixPath, PureWindowsPath, np.dtype, np.ndarray, *(type(np.dtype(code)) for code in np.typecodes["All"])),
    (_plain_dict, "collections.defaultdict"),  # torch fills no other mappings
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((PurePosixPath, "pathlib._local.PurePosixPath"), (PureWindowsPath, "pathlib._local.PureWindowsPath")),
    *(
        (_numpy(name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
]
"""What training scripts keep beside the weights and that is plain data: nothing of it runs code or touches a file."""


def load_state(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the weights in a ``.safetensors`` file or a PyTorch checkpoint, on the CPU; see ``open_state``."""
    return open_state(path, key)[0]


def open_state(path: str | Path, key: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights in a ``.safetensors`` file or a PyTorch checkpoint, on the CPU, and sentences on the choice.

    A checkpoint may hold them nested under a key of ``NESTED``, the averaged ones before the others; ``fit`` reads
    prefixes such as ``module.``. Nothing in the file is executed: pickles are read with ``weights_only=True`` and never
    otherwise.

    Args:
        path: the file.
        key: under which the weights are, where a file holds several; None: the first of ``NESTED``.

    Raises:
        InputError: there is no such file, it holds no weights, or none under that key.
    """
    path = Path(path).expanduser()
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*.*")] if path.parent.is_dir() else []
        near = did_you_mean(path.name, [*beside, "auto", "pretrained", "scratch"])
        raise InputError(
            f"no weights file {str(path)!r}; weights are auto, pretrained, scratch or a file. {near}".rstrip()
        )
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; name the weights file in it, or the model as local-dir:{path}")
    content = _read(path)
    found = _nested(content)
    if key is not None and key not in found:
        raise InputError(
            f"{str(path)!r} holds no weights under {key!r} (weights_key). "
            + (f"It holds some under {', '.join(found)}." if found else "Leave weights_key out.")
        )
    chosen = key or next((name for name in NESTED if name in found), None)
    state = found[chosen] if chosen is not None else _tensors(content)
    if not state:
        keys = f" It holds: {', '.join(map(str, list(content)[:8]))}." if isinstance(content, Mapping) else ""
        if found:
            keys = f" It holds weights under {', '.join(found)}: weights_key, beside weights in the recipe, takes them."
        raise InputError(f"{str(path)!r} holds no state dict: tensors by name, or these under 'state_dict'.{keys}")
    others = [name for name in found if name != chosen and (name in NESTED or key is not None)]
    if chosen is None or not others:
        return state, []
    return state, [
        f"{str(path)!r} holds several weights: those under {chosen!r} are taken, not {', '.join(map(repr, others))}; "
        "weights_key, beside weights in the recipe, chooses"
    ]


def _read(path: Path) -> Any:
    """Return a file's content without running anything in it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path, device="cpu")
        except Exception as error:
            raise InputError(f"{str(path)!r} is no safetensors file: {first_line(error)}") from error
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks users to report how their file was pickled
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{str(path)!r} is no checkpoint that can be read safely ({_why(error)}). "
            "Save the weights alone, with torch.save(model.state_dict(), FILE) or as .safetensors."
        ) from error


def _why(error: Exception) -> str:
    """Return what a file holds that is not read; torch's own words recommend to run it."""
    if not isinstance(error, pickle.UnpicklingError):
        return first_line(error)
    asked = re.search(r"GLOBAL (\S+)", str(error))
    named = f": {asked[1]}" if asked else ""
    return f"it holds other things than tensors and plain values, which could run code{named}"


def _nested(content: Any, depth: int = 3) -> dict[str, dict[str, Tensor]]:
    """Return by key the weights that a checkpoint holds under keys; those nested deeper stand for their key."""
    found: dict[str, dict[str, Tensor]] = {}
    if not depth:
        return found
    for key, value in content.items() if isinstance(content, Mapping) else ():
        deeper = _nested(value, depth - 1)
        state = next((deeper[name] for name in NESTED if name in deeper), None) or _tensors(value)
        if state:
            found[str(key)] = state
    return found


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name; empty where there are none."""
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _heads(module: nn.Module, known: Sequence[str]) -> tuple[str, ...]:
    """Return what the names of the final layers' parameters start with: those known, or the last linear or 1x1's."""
    last = [name for name, child in module.named_modules() if _is_head(child)]
    return tuple(name + "." for name in known or last[-1:])


def _is_head(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1)
    return isinstance(module, nn.Linear)


def fit(
    module: nn.Module, state: Mapping[str, Tensor], origin: str, num_classes: int, heads: Sequence[str] = ()
) -> list[str]:
    """Load weights into a network, all or none of them, and return sentences for the user on how they were named.

    Args:
        module: the network.
        state: its weights by name.
        origin: what the weights are, for messages ("the file weights.pth").
        num_classes: the data's classes.
        heads: modules that give the classes; none: the last linear layer or 1x1 convolution does.

    Raises:
        InputError: another class count, or names or shapes that do not fit; the message names the first few.
    """
    own = module.state_dict()
    state, prefix = matched(state, own.keys())
    missing = [name for name in own if name not in state and not counts(name)]
    unexpected = [name for name in state if name not in own]
    shapes = [(n, tuple(state[n].shape), tuple(own[n].shape)) for n in own if n in state]
    mismatched = [entry for entry in shapes if entry[1] != entry[2]]
    wrong_heads = [e for e in mismatched if e[0].startswith(_heads(module, heads)) and e[1][1:] == e[2][1:]]
    if wrong_heads and not missing and not unexpected:
        raise InputError(class_count_message(origin, wrong_heads[0][1][0], num_classes))
    if missing or unexpected or mismatched:
        raise InputError(
            f"{origin} do not fit the network: "
            + "; ".join(
                part
                for part in (
                    _listed("missing", missing),
                    _listed("unexpected", unexpected),
                    _listed("of another shape", [f"{n} {have} instead of {want}" for n, have, want in mismatched]),
                )
                if part
            )
            + (
                ". They are named as another network's: give the model that these names belong to, or save them under "
                "this network's."
                if missing or unexpected
                else ". Give the architecture (and model_args) that the weights were trained with."
            )
        )
    module.load_state_dict({name: state.get(name, own[name]) for name in own})
    return [f"{origin}: their names are read without {prefix!r} before them"] if prefix else []


def with_own_head(module: nn.Module, state: Mapping[str, Tensor], heads: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return weights with the network's own final layers in place of theirs, if they have any; as for ``fit``."""
    own, first = module.state_dict(), _heads(module, heads)
    state, _ = matched(state, own.keys(), first)
    body = {name: value for name, value in state.items() if not name.startswith(first)}
    return body | {name: value for name, value in own.items() if name.startswith(first)}


def class_count_message(origin: str, found: int, num_classes: int) -> str:
    """Return the error for weights whose head is for another number of classes."""
    return (
        f"{origin} are for {found} classes, the data has {num_classes}. Use data with those classes or weights that "
        "were trained on them; to start from these features instead, set new_head=true beside weights "
        "(teacher.new_head=true, student.new_head=true): it keeps the body and trains a new head on the data."
    )


def _listed(what: str, names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    if not names:
        return ""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{len(names)} {what} ({', '.join(names[:count])}{more})"


def load_into(built: Built, path: str, heads: Sequence[str], key: str | None = None, new_head: bool = False) -> None:
    """Load a weights file into a built network, and note where its weights came from.

    Args:
        built: the network.
        path: the file.
        heads: as for ``fit``.
        key: as for ``open_state``.
        new_head: keep the network's own final layers.

    Raises:
        InputError: it holds no weights, or weights that do not fit.
    """
    put_in_beside(built, path)
    state, notes = open_state(path, key)
    if new_head:
        state = with_own_head(built.module, state, heads)
    built.notes += notes + fit(built.module, state, f"the weights in {path!r}", built.num_classes, heads)
    mark_loaded(built, path)
    if new_head:
        mark_new_head(built)


def mark_new_head(built: Built) -> None:
    """Note that a network's final layers are new and have to be trained."""
    built.needs_training = True
    built.notes.append(
        f"{built.name}: the body of its weights is kept, with a new head for {built.num_classes} classes"
    )


def mark_loaded(built: Built, path: str | Path) -> None:
    """Note that a network's weights came from a file that was made for these classes."""
    built.origin = f"file:{path}"
    built.needs_training = False
    built.weights_id = "sha256:" + hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
