"""What tasks take from packages that a plain installation does not have: extras, transformers first of all."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdtool.errors import InputError


def need(module: str, what: str, extra: str) -> Any:
    """Return a module of a package that an extra brings.

    Args:
        module: its name.
        what: needs it, and the verb: "ONNX files need".
        extra: that has it.

    Raises:
        InputError: it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise InputError(f"{what} {package}: pip install 'kdtool[{extra}]'.") from error


def transformers(task: str = "text") -> Any:
    """Return the library.

    Args:
        task: that needs it, and the extra that has it.

    Raises:
        InputError: it is missing.
    """
    return need("transformers", f"the task {task!r} needs", task)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what transformers says while it opens something (bars, layers that are new) off the terminal."""
    import transformers.utils.logging as found

    said: Any = found
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    # Of quantisers, which transformers imports with its first network where there are some.
    others = logging.getLogger("torch.utils._pytree")
    before = others.level
    said.set_verbosity_error()
    said.disable_progress_bar()
    others.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        others.setLevel(before)
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()
