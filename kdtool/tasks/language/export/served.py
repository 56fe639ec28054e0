"""A language model as it is served: token numbers in, logits out; and exported files that do the same.

There is no mask: padding lies behind, where a causal network does not look. Nor are there kept keys and values: a text
is gone on with by reading it again, one token longer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.export.onnx_file import OUTPUT
from kdtool.tasks.common.export.opened import onnx_session, program_module
from kdtool.tasks.common.export.program import plain_copy

IDS = "input_ids"
"""Name of the input, (B, L) int64."""

ABOUT = "serving"
"""The key of an exported file's metadata that ``Serving`` stands under."""


class Served(nn.Module):
    """A copy of a network, on the CPU in fp32: (B, L) token numbers -> (B, L, V) logits of the tokens that follow."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = plain_copy(module)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.module(input_ids=input_ids, use_cache=False).logits
        return logits


@dataclass(frozen=True)
class Serving:
    """What a file says of itself; the same lies beside it.

    Attributes:
        vocab_size: V: token numbers are below it.
        max_length: tokens of a text at most.
        start_ids: tokens that stand in front of every text without a chat template.
        end_id: the token that ends a text; None: there is none.
        name: the run that it was made of.
        params: of the network that it was made of.
        length: a usual text's tokens.
    """

    vocab_size: int
    max_length: int
    start_ids: list[int]
    end_id: int | None
    name: str
    params: int
    length: int

    def texts(self) -> dict[str, str]:
        """Return it as a text by key, as ONNX and torch.export keep it."""
        return {ABOUT: json.dumps(self.__dict__, ensure_ascii=False)}


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        run: (B, L) token numbers to (B, L, V) logits.
        about: what it says of itself.
    """

    run: Callable[[Tensor], Tensor]
    about: Serving


def open_exported(path: Path) -> Exported:
    """Return an exported file, ready to run.

    Raises:
        InputError: no such file, or none of a language model's; or the package that runs it is missing.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}.")
    if path.suffix == ".onnx":
        session = onnx_session(path)
        about = _about(session.get_modelmeta().custom_metadata_map, path)
        return Exported(lambda ids: torch.from_numpy(session.run([OUTPUT], {IDS: ids.cpu().numpy()})[0]), about)
    module, said = program_module(path)
    return Exported(module, _about(said, path))


def _about(texts: Mapping[str, str], path: Path) -> Serving:
    try:
        return Serving(**json.loads(texts[ABOUT]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say what its tokens are (no readable {ABOUT!r} inside): give a file that kdtool export "
            "wrote of a language model."
        ) from error
