"""A user's own architecture: a function in a Python file, called with ``num_classes``."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kdtool.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Factory:
    """A function that makes a network.

    Attributes:
        path: the file, as the user gave it.
        function: the function's name.
        source_hash: sha256 of the file's bytes.
        call: the function itself.
        file: the file, imported.
    """

    path: str
    function: str
    source_hash: str
    call: Callable[..., Any]
    file: ModuleType

    def attribute(self, name: str) -> Any:
        """Return what the function has under a name (``make.name = …``), else what the file has; None: neither."""
        return getattr(self.call, name, getattr(self.file, name, None))

    def takes(self, argument: str) -> bool:
        """Tell whether the function has an argument of this name, or takes any."""
        given = inspect.signature(self.call).parameters
        return argument in given or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in given.values())

    def build(self, num_classes: int, model_args: dict[str, Any]) -> nn.Module:
        """Return the network that the function makes.

        Raises:
            InputError: the function raised, or returned something else.
        """
        name = f"{self.path}:{self.function}"
        try:
            module = self.call(num_classes=num_classes, **model_args)
        except Exception as error:
            given = ", ".join(["num_classes", *model_args])
            raise InputError(f"{name}, called with {given}, raised {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"{name} returned {type(module).__name__}; it must return a torch.nn.Module.")
        return module


def load_factory(spec: str) -> Factory:
    """Return the function that ``path/to/file.py:function`` names.

    The file is run, as an import would; the modules beside it can be imported by it.

    Raises:
        InputError: no such file, it cannot be imported, or it has no such function.
    """
    head, colon, function = spec.rpartition(":")
    text = head if colon and not function.endswith(".py") else spec
    path = Path(text).expanduser()
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        raise InputError(f"no file {text!r} for the model {spec!r}. {near}".rstrip())
    source = path.read_bytes()
    loaded = _import(path, source, spec)
    functions = [n for n, v in vars(loaded).items() if callable(v) and getattr(v, "__module__", "") == loaded.__name__]
    if text == spec:
        raise InputError(
            f"{spec!r} names no function; write {text}:FUNCTION. It has: {', '.join(functions) or 'none'}."
        )
    found = getattr(loaded, function, None)
    if not callable(found):
        raise InputError(f"{text} has no function {function!r}. {did_you_mean(function, functions)}")
    return Factory(text, function, hashlib.sha256(source).hexdigest(), found, loaded)


def _import(path: Path, source: bytes, spec: str) -> ModuleType:
    """Import a file under a name of its own; the same content at the same place is imported once."""
    place = str(path.resolve())
    name = "kdtool_own_" + hashlib.sha256(place.encode() + b"\0" + source).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    recipe = importlib.util.spec_from_file_location(name, place)
    assert recipe is not None
    assert recipe.loader is not None
    module = importlib.util.module_from_spec(recipe)
    sys.modules[name] = module  # classes in it must be found again by pickle and dataclasses
    sys.path.insert(0, str(path.resolve().parent))
    try:
        recipe.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise InputError(f"{spec!r}: importing the file raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
