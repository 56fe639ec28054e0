"""A text network as it is served: token numbers and a mask in, logits out; and exported files that do the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.export.onnx_file import OUTPUT
from kdtool.tasks.common.export.opened import onnx_session, program_module
from kdtool.tasks.common.export.program import plain_copy
from kdtool.tasks.text.models.built import Built

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
"""Names of the inputs, each (B, L) int64; the mask is 1 at real tokens, 0 at padding."""

ABOUT = "serving"
"""The key of an exported file's metadata that ``Serving`` stands under."""


class Served(nn.Module):
    """A copy of a network, on the CPU in fp32: (B, L) numbers, mask and, where it takes some, types -> (B, K)."""

    def __init__(self, built: Built):
        super().__init__()
        self.module, self.own = plain_copy(built.module), built.kind == "transformers"
        self.inputs = (IDS, MASK, TYPES) if built.tapped().takes_types else (IDS, MASK)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        if not self.own:
            logits: Tensor = self.module(input_ids, attention_mask > 0)
            return logits
        types = {} if token_type_ids is None else {TYPES: token_type_ids}
        logits = self.module(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def as_served(own: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a batch's inputs ("ids", "mask" and "types", see ``kdtool.tasks.text.models.built.Inputs``) by name."""
    found = {IDS: own["ids"], MASK: own["mask"].long(), TYPES: own["types"]}
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class Serving:
    """What a file says of itself; the same lies beside it.

    Attributes:
        class_names: K names in the order of the logits.
        inputs: names of what it takes.
        pad_id: number of the padding token.
        max_length: tokens of a text at most.
        vocab_size: V: token numbers are below it.
        name: the run that it was made of.
        params, macs: of the network that it was made of, the latter for a text of ``length`` tokens.
        length: a usual text's tokens.
    """

    class_names: list[str]
    inputs: list[str]
    pad_id: int
    max_length: int
    vocab_size: int
    name: str
    params: int
    macs: int
    length: int

    def texts(self) -> dict[str, str]:
        """Return it as a text by key, as ONNX and torch.export keep it."""
        return {ABOUT: json.dumps(self.__dict__, ensure_ascii=False)}


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        run: inputs by name to (B, K) logits.
        about: what it says of itself.
    """

    run: Callable[[Mapping[str, Tensor]], Tensor]
    about: Serving


def open_exported(path: Path) -> Exported:
    """Return an exported file, ready to run.

    Raises:
        InputError: no such file, or none of text's; or the package that runs it is missing.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}.")
    if path.suffix == ".onnx":
        session = onnx_session(path)
        about = _about(session.get_modelmeta().custom_metadata_map, path)

        def run(inputs: Mapping[str, Tensor]) -> Tensor:
            return torch.from_numpy(
                session.run([OUTPUT], {name: inputs[name].cpu().numpy() for name in about.inputs})[0]
            )

        return Exported(run, about)
    module, said = program_module(path)
    about = _about(said, path)
    return Exported(lambda inputs: module(*(inputs[name] for name in about.inputs)), about)


def _about(texts: Mapping[str, str], path: Path) -> Serving:
    try:
        found: dict[str, Any] = json.loads(texts[ABOUT])
        return Serving(**found)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say how its input is made (no readable {ABOUT!r} inside): give a file that kdtool export "
            "wrote of a text student."
        ) from error
