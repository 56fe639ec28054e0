"""What is measured, or predicts: a run's student, a saved model's folder, or a model by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.common import extra
from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.common.own_classes import names_of
from kdtool.tasks.common.targets import CONFIG, Found, config_of, refuse_beside
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.models import plain
from kdtool.tasks.text.models.build import Request, build, is_own
from kdtool.tasks.text.models.built import Built
from kdtool.tasks.text.models.save import PAIRS
from kdtool.tasks.text.models.tokens import FILE, Tokens, of_folder
from kdtool.tasks.text.networks import Tokenizers

LONGEST = 512
"""Tokens of a text at most, where a model does not say."""


@dataclass
class Target:
    """A network that is ready to be measured.

    Attributes:
        name: as it was given.
        kind: as in ``Found``, or "teacher".
        built: the network.
        class_names: in the order of the logits; None where it does not say.
        file: what ships, None where nothing is stored.
        notes: sentences for the user.
        pairs: it says that it was trained on pairs of texts.
    """

    name: str
    kind: str
    built: Built
    class_names: list[str] | None
    file: Path | None = None
    notes: list[str] = field(default_factory=list)
    pairs: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """What tables show of it; multiply-accumulates are of a dry forward."""
        return {
            "name": self.name,
            "kind": self.kind,
            "model": self.built.name,
            "params": parameters(self.built.module),
            "macs": macs(self.built.tapped(), self.built.dry_inputs(1)),
            "bytes": self.file.stat().st_size if self.file is not None else None,
            "classes": self.built.num_classes,
        }


def open_target(found: Found, data: TextData | None, recipe: Any = None, weights: str = "auto") -> Target:
    """Build or load what was found.

    Args:
        found: by ``find``.
        data: decides the class count of a model that does not say it, and its tokenizer where it has none; None: the
            model has to say.
        recipe: whose ``student`` a model by name is; None: without arguments.
        weights: as in a recipe; only for a model by name.

    Raises:
        InputError: it cannot be built, or an argument does not apply to it.
    """
    refuse_beside(found, {"weights": weights != "auto"})
    if found.kind == "model":
        return _open_model(found.name, data, recipe, weights)
    return _open_folder(found)


def _open_folder(found: Found) -> Target:
    assert found.path is not None
    folder = found.path / "student" if found.kind == "run" else found.path
    config, weights = config_of(folder), str(folder / WEIGHTS)
    if "kdtool" in config:
        source = (config["kdtool"] or {}).get("source")
        if found.kind != "run":
            raise InputError(
                f"{found.name} holds weights of an architecture of your own, {source}. Code is never run because a "
                f"weights folder names it: give {source} with --weights {weights}, or the run's folder."
            )
        model, args = found.recipe.student.model, dict(found.recipe.student.model_args)
    elif config.get("network") in plain.NETWORKS:
        model, args = config["network"], dict(config.get("model_args") or {})
    else:
        model, weights, args = str(folder), "auto", {}
    names = names_of(config)
    classes = len(names) if names else _classes(config)
    if classes is None:
        raise InputError(f"{folder / CONFIG} does not say how many classes there are (label_names, id2label).")
    built = build(Request(model, weights, classes, tokens_in(folder), args, 0, "student"))
    file = folder / WEIGHTS
    notes = [*built.notes, *_untrained(found.name, built)]
    pairs = config.get(PAIRS) is True
    return Target(found.name, found.kind, built, names, file if file.is_file() else None, notes, pairs)


def _open_model(name: str, data: TextData | None, recipe: Any, weights: str) -> Target:
    file = Path(weights).expanduser() if weights not in ("auto", "pretrained", "scratch") else None
    config = config_of(file.parent) if file is not None else {}
    tokens = tokens_in(file.parent) if file is not None and (file.parent / FILE).is_file() else None
    if not is_own(name):
        config = config or _hub_config(name)
        tokens = tokens or tokens_in(name)
    names = names_of(config)
    classes = len(names) if names else (len(data.class_names) if data is not None else _classes(config))
    if data is not None and names is None and _trained(config):
        classes = _classes(config)
    if tokens is None and data is not None and recipe is not None:
        tokens = Tokenizers(recipe, data).own
    if classes is None or tokens is None:
        lacking = "classes" if classes is None else "tokenizer"
        raise InputError(
            f"{name} has no {lacking} of its own: give a run's folder, or weights (--weights) that lie beside the "
            f"{CONFIG} and {FILE} that a run wrote."
        )
    args = dict(recipe.student.model_args) if recipe is not None else dict(config.get("model_args") or {})
    key = recipe.student.weights_key if recipe is not None else None
    built = build(Request(name, weights, classes, tokens, args, 0, "student", key))
    notes = [*built.notes, *_untrained(name, built)]
    return Target(name, "model", built, names, file, notes, config.get(PAIRS) is True)


def _untrained(name: str, built: Built) -> list[str]:
    if not built.needs_training:
        return []
    return [f"{name} was never trained on these classes: expect accuracy at chance level"]


def _trained(config: Mapping[str, Any]) -> bool:
    return any(str(each).endswith("ForSequenceClassification") for each in config.get("architectures") or ())


def _classes(config: Mapping[str, Any]) -> int | None:
    if config.get("num_classes"):
        return int(config["num_classes"])
    if not _trained(config):
        return None
    return len(config.get("id2label") or (0, 1))  # two is what transformers leaves unsaid


def _hub_config(name: str) -> dict[str, Any]:
    """Return a model's description; empty where it cannot be had, which building it tells in full."""
    transformers = extra.transformers()
    with extra.quiet():
        try:
            found: dict[str, Any] = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
        except Exception:
            return {}
    return found


def tokens_in(folder: str | Path) -> Tokens:
    """Return the tokenizer of a saved model or of a name of the hub, with the longest text that it says itself.

    Raises:
        InputError: it has none.
    """
    try:
        settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        longest = int(settings["model_max_length"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        longest = LONGEST
    # transformers writes 1e30 where there is no limit.
    return of_folder(str(folder), longest if 4 <= longest <= 1_000_000 else LONGEST)
