"""``kdtool.evaluate`` for language models: perplexity, agreement with a teacher, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.tasks.common.held import HeldBatches
from kdtool.tasks.common.matching import SPLITS, streamed, usual_split
from kdtool.tasks.common.targets import recipe_for, trained_on
from kdtool.tasks.common.texts import answer_of
from kdtool.tasks.language.data.batches import Maker
from kdtool.tasks.language.data.dataset import LanguageData, Split
from kdtool.tasks.language.data.open import in_tokens, read_data
from kdtool.tasks.language.evaluation.answers import Questions, prompts_of, write
from kdtool.tasks.language.evaluation.measured import measure
from kdtool.tasks.language.evaluation.target import Target, find, open_target, own_teachers, place_of
from kdtool.tasks.language.models.tokens import of_folder
from kdtool.tasks.language.models.vocabulary import common
from kdtool.tasks.task import Reading, Say

UNIT = "samples"
NEW_TOKENS = 256
"""Tokens of an answer at most, where nothing else is asked for."""


def evaluate(
    target: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    teacher: str | Path | None = None,
    weights: str = "auto",
    generate: int | None = None,
    new_tokens: int | None = None,
    answer: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Measure a language model on data.

    Args:
        target: a run's folder, a saved model's folder, a hub name or a .gguf file.
        data: as ``data.name`` of a recipe; default: the data of the run that the target is or lies in.
        split: "test", "val", "train" or "all"; default: "test", and "all" of ``data`` that have no split to test on.
        teacher: a target to compare with; default: the run's own teachers.
        weights: has to be "auto": a network comes with its own.
        generate: how many prompts are answered; default: none, and with ``answer`` all.
        new_tokens: tokens of an answer at most.
        answer: "gsm8k" or a regular expression: how final answers are found, which are then compared.
        batch_size, device: default: as in the run.
        overrides: texts ``data.key=value``.
        say: takes sentences for the user.
        others: what other tasks take: refused by name.

    Returns:
        Plain data: "target", "data", "metrics" (perplexity, nll, top1, tokens; with answers rouge_l and exact_match),
        "teachers" (the same of each, and "agreement", "kl" and "positions"), "answers" and "notes".

    Raises:
        InputError: something that was given is wrong.
    """
    for name in others:
        raise InputError(f"--{name.replace('_', '-')} does not apply to language models: leave it out.")
    if split is not None and split not in SPLITS:
        raise InputError(f"--split {split} is none. Valid: {', '.join(SPLITS)}.")
    say = say or (lambda _: None)
    final = answer_of(answer) if answer is not None else None
    found = find(str(target))
    if weights != "auto":
        raise InputError(f"--weights {weights}: a language model comes with its own weights; give its folder instead.")
    recipe = recipe_for(
        found, "language", data, overrides, {"train.batch_size": batch_size, "train.device": device}, {}
    )
    tokens, longest = of_folder(place_of(found)), recipe.data.max_length
    named = find(str(teacher)) if teacher is not None else None
    theirs = [(named.name, of_folder(place_of(named)))] if named is not None else []
    classes, notes = common(tokens, theirs)
    opened = in_tokens(read_data(recipe.data, recipe.train.steps is not None), recipe.data, tokens, classes)
    student = open_target(found, tokens, classes, longest)
    teachers = [open_target(named, tokens, classes, longest)] if named is not None else []
    if named is None and found.recipe is not None and found.recipe.teacher:
        if data is None and found.recipe.data == recipe.data:
            teachers, more = own_teachers(found.recipe, opened)
            notes += more
        else:
            notes.append("other data than the run's: --teacher names what to compare with")
    place = pick_device(recipe.train.device)
    usual, said = usual_split(opened, trained_on(found, data))
    said, split = ([], split) if split is not None else (said, usual)
    splits = choose(opened, split)
    reading = Reading(recipe.train.batch_size, 0, place, train=False)
    own, beside = measure(
        student.built,
        [each.built for each in teachers],
        [(each, HeldBatches(each, reading, Maker(each), recipe.data, offsets=each.offsets)) for each in splits],
        place,
    )
    document: dict[str, Any] = {
        "target": student.about,
        "data": {
            "name": opened.name, "split": split, "unit": UNIT, "samples": sum(map(len, splits)),
            "tokens": own["tokens"],
            "classes": classes, "inputs": f"of at most {longest} tokens", "max_length": longest,
        },
        "metrics": own,
        "teachers": [
            {**each.about, "metrics": metrics, **agreement.figures()}
            for each, (metrics, agreement) in zip(teachers, beside, strict=True)
        ],
        "answers": None,
        "notes": [*said, *notes, *student.notes, *([bad] if (bad := opened.faults()) else [])],
    }  # fmt: skip
    count = generate if generate is not None else (None if final is not None else 0)
    if count != 0:
        prompts = [prompt for each in splits for prompt in prompts_of(opened, each, count)][:count]
        if final is not None and not any(final(prompt.reference) for prompt in prompts):
            raise InputError(f"--answer {answer}: no answer of {opened.name} holds a final one to compare with.")
        questions = Questions(prompts, longest, new_tokens or NEW_TOKENS, final)
        _answer(document, questions, [student, *teachers], place)
    for note in document["notes"]:
        say(note)
    return document


def choose(data: LanguageData, name: str) -> list[Split]:
    """Return the splits that ``--split`` names, one of ``SPLITS``.

    Raises:
        InputError: the data have none, or it passes by.
    """
    if data.stream is not None and name in ("train", "all"):
        raise streamed(name)
    every = {"train": data.train, "val": data.val, "test": data.test}
    found = [split for key, split in every.items() if split is not None and name in (key, "all")]
    if not found:
        raise InputError(f"--split {name}: {data.name} has none, since data.val_fraction is 0.")
    return [each for number, each in enumerate(found) if not any(each is other for other in found[:number])]


def _answer(document: dict[str, Any], questions: Questions, networks: Sequence[Target], device: Any) -> None:
    """Let the student, then the teachers, answer, and add what they write and how near it is to the document."""
    rows: list[dict[str, Any]] = [
        {"prompt": prompt.asked, "reference": prompt.reference, "written": {}} for prompt in questions.prompts
    ]
    for number, network in enumerate(networks):
        if not network.built.writes:
            continue
        part = "student" if not number else f"teacher {number}" if len(networks) > 2 else "teacher"
        written = write(network.built, questions, device)
        metrics = document["metrics"] if not number else document["teachers"][number - 1]["metrics"]
        metrics.update(questions.figures(written))
        for row, text in zip(rows, written, strict=True):
            row["written"][part] = text
    document["answers"] = {"count": len(rows), "new_tokens": questions.new_tokens, "samples": rows}
