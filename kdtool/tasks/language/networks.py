"""A recipe's language models: whose tokens they speak, built, and how the student starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdtool import registry
from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError
from kdtool.generation.taught import is_set
from kdtool.recipe import load as recipes
from kdtool.tasks.common.targets import network_folder
from kdtool.tasks.language.context import context_of
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.data.dataset import LanguageData
from kdtool.tasks.language.models.build import WORDS, Request, build, is_own
from kdtool.tasks.language.models.built import Built
from kdtool.tasks.language.models.cut import cut_out
from kdtool.tasks.language.models.lora import add_updates
from kdtool.tasks.language.models.tokens import FILE, Tokens, of_folder, trained_on
from kdtool.tasks.language.models.vocabulary import common, differing
from kdtool.tasks.language.objective import TokenMeter
from kdtool.tasks.language.recorded.network import build_recorded

LOOKED_AT = 2048
"""Rows, about, on which a student's start is measured."""


@dataclass(frozen=True)
class Spoken:
    """Whose tokens a recipe's networks speak.

    Attributes:
        tokens: the student's tokenizer.
        size: V, the tokens that it and the teachers of the same vocabulary know.
        others: by their models, the tokenizers of teachers that have another vocabulary.
        notes: sentences for the user.
    """

    tokens: Tokens
    size: int
    others: dict[str, Tokens]
    notes: list[str]


def spoken(recipe: Any, texts: Iterable[str]) -> Spoken:
    """Return whose tokens the networks speak.

    Args:
        recipe: of the task's own type.
        texts: of the training set, for a tokenizer that is trained on them.

    Raises:
        InputError: there is no tokenizer, the student was trained with another, or a teacher has another vocabulary
            and the method, or something else that is asked for, cannot do with that.
    """
    opened = lru_cache(of_folder)  # several networks may be of one folder
    section = named(recipe.student)
    teachers = [named(each) for each in recipe.teacher if not is_set(each.model)]
    own = None if section.from_teacher.wanted else _own_tokens(section, opened)
    theirs = {each.model: tokens for each in teachers if (tokens := _own_tokens(each, opened)) is not None}
    if section.tokenizer == "auto":
        student = own or next(iter(theirs.values()), None)
    else:
        student = None if section.tokenizer == "own" else opened(section.tokenizer)
    found = student or trained_on(texts, recipe.data.vocab_size)
    if own is not None and section.weights != "scratch" and differing(found, own):
        raise InputError(
            f"student.tokenizer={section.tokenizer}: {section.model} was trained with another one; leave it out, or "
            "start from scratch (student.weights=scratch)."
        )
    others: dict[str, Tokens] = {}
    if _takes_any(recipe):
        others = {name: each for name, each in theirs.items() if differing(found, each)}
        _refuse_for(others, recipe)
    alike = [(name, each) for name, each in theirs.items() if name not in others]
    size, notes = common(found, alike, _able)
    return Spoken(found, size, others, notes)


def _takes_any(recipe: Any) -> bool:
    """Tell whether the recipe's methods all take teachers of other tokens."""
    methods = [registry.get(name) for name in recipes.parts(recipe)]
    return bool(methods) and all(method.any_classes for method in methods)


def _able() -> list[str]:
    """Return the methods that do."""
    return [entry.name for entry in registry.entries() if entry.error is None and entry.load().any_classes]


def _refuse_for(others: Mapping[str, Tokens], recipe: Any) -> None:
    """Refuse what cannot be done with teachers of other tokens.

    Raises:
        InputError: naming the key, and why.
    """
    if not others:
        return
    first = f"teacher {next(iter(others))} has other tokens than the student"
    if recipe.data.on_policy:
        raise InputError(f"data.on_policy={recipe.data.on_policy}: {first}, and cannot read what the student has just "
                         "written. Leave it out.")  # fmt: skip
    for section in recipe.teacher:
        if named(section).model in others and (section.prefix or section.demonstrations):
            raise InputError(f"teacher.prefix, teacher.demonstrations: {first}; a context is written in shared ones. "
                             "Leave it out.")  # fmt: skip


def named(section: Any) -> Any:
    """Return a network's section of the recipe, with a run's student in the place of the run.

    Raises:
        InputError: it names a run without a student.
    """
    folder = network_folder(section.model)
    return section if folder is None else replace(section, model=str(folder))


def _own_tokens(section: Any, opened: Callable[[str], Tokens]) -> Tokens | None:
    """Return the tokenizer that comes with a network, None where it takes any."""
    if not is_own(section.model):
        return opened(section.model)
    folder = Path(section.weights).expanduser().parent
    return opened(str(folder)) if section.weights not in WORDS and (folder / FILE).is_file() else None


def build_student(recipe: Any, data: LanguageData) -> Built:
    """Return the student with its first weights, a function of ``train.seed``."""
    section = recipe.student
    built = _plain_student(recipe, data)
    if section.lora.rank:
        add_updates(built, section.lora, recipe.train.seed)
    if section.checkpointing:
        module: Any = built.module
        if not module.supports_gradient_checkpointing:
            raise InputError(f"student.checkpointing: {built.name} cannot compute its layers again; leave it out.")
        # older versions of transformers know the second name alone
        enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return built


def _plain_student(recipe: Any, data: LanguageData) -> Built:
    section = recipe.student
    if not section.from_teacher.wanted:
        return build(_request(recipe, section, data, recipe.train.seed, "student"))
    if section.model != type(section)().model:
        raise InputError(
            f"student.model={section.model} and student.from_teacher exclude one another: a student is named, or cut "
            "out of the first teacher."
        )
    if not recipe.teacher or is_set(recipe.teacher[0].model):
        raise InputError("student.from_teacher: there is no network as a teacher to cut a student out of.")
    teacher = build(_request(recipe, recipe.teacher[0], data, recipe.teacher[0].train.seed, "student"))
    return cut_out(teacher, section.from_teacher, data, recipe.train.seed)


def build_teachers(recipe: Any, data: LanguageData, online: bool) -> list[Built]:
    """Return the teachers in order; first weights follow their own seed, a peer's the run's."""
    found: list[Built] = []
    for number, section in enumerate(recipe.teacher):
        if is_set(section.model):
            found.append(build_recorded(section, recipe, data, online))
            continue
        role, seed = (f"peer{number}", recipe.train.seed) if online else ("teacher", section.train.seed)
        built = build(_request(recipe, section, data, seed, role))
        built.apart = built.tokens is not data.tokens
        built.context = context_of(section, data, recipe.data.loss_on, recipe.data.view_seed)
        if built.context is not None:
            _check_context(built, recipe.data.max_length, online)
        found.append(built)
    return found


def _check_context(built: Built, longest: int, online: bool) -> None:
    """Refuse a context that a teacher cannot read, or that is a peer's."""
    assert built.context is not None
    if online:
        raise InputError("teacher.prefix and teacher.demonstrations are for teachers that do not train along.")
    most, size = getattr(built.module.config, "max_position_embeddings", None), built.context.longest
    if most is not None and size + longest > most:
        raise InputError(
            f"teacher {built.name} reads {most:,} tokens at most, which its context of {size:,} and samples of "
            f"data.max_length={longest:,} exceed: lower that, or show less (teacher.prefix, teacher.demonstrations)."
        )
    built.notes.append(f"teacher {built.name} reads {size:,} tokens before every sample, which the student does not")


def _request(recipe: Any, section: Any, data: LanguageData, seed: int, role: str) -> Request:
    cfg, section = recipe.data, named(section)
    longest, tokens, size = cfg.max_length, data.tokens, len(data.class_names)
    if data.twins and section.model in data.twins:
        twin = data.twins[section.model]
        # Of a stream no longest sample is known, but none becomes longer than the network can read.
        longest = twin.longest if data.stream is None else twin.tokens.longest or twin.longest
        tokens, size = twin.tokens, twin.size
    elif data.twins is None and role != "student":  # data that were opened for another network's sake
        own = _own_tokens(section, of_folder)
        if own is not None and differing(own, tokens):
            longest, tokens, size = min(longest, own.longest or longest), own, own.size
    return Request(
        section.model, section.weights, size, tokens, section.model_args, seed, role, longest,
        longest if cfg.packing else 0,
    )  # fmt: skip


def say_start(built: Built, data: LanguageData) -> None:
    """Add to a student's notes how well it predicts before it is trained, beside guessing."""
    split = data.val if data.val is not None else data.train
    count = int(np.searchsorted(split.offsets, LOOKED_AT)) or 1
    meter, few = TokenMeter(), split.take(np.arange(min(count, len(split))))
    network = built.tapped()
    with undisturbed(network):
        for row in few.rows:
            sample = few.samples[row]
            logits = network(padded([sample]))[0].whole()
            meter.add(logits, torch.from_numpy(sample[0][sample[1]].astype(np.int64)), torch.arange(len(logits)))
    loss = meter.metrics()["nll"]
    guess = math.log(built.num_classes)
    worse = "; it starts worse than guessing: warm it up (schedule.warmup_epochs)" if loss > guess + 0.1 else ""
    built.notes.append(
        f"student {built.name} starts at {loss:.2f} nats a token on {few.offsets[-1]:,} tokens; guessing gives "
        f"ln {built.num_classes} = {guess:.2f}{worse}"
    )
