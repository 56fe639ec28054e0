"""``kdtool.predict`` for language models: prompts are gone on with, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.generation.rows import TABLES, Row, questions, row_of_messages
from kdtool.recipe import load as recipes
from kdtool.tasks.common.files.cells import Unfit, sound
from kdtool.tasks.common.files.stream import blocks, decoded
from kdtool.tasks.common.predicting import Item, applied, check_given, in_chunks
from kdtool.tasks.language.data.chats import ASSISTANT, Chat, Writer
from kdtool.tasks.language.data.open import an_example
from kdtool.tasks.language.evaluation.answers import AT_ONCE, ids_of
from kdtool.tasks.language.evaluation.evaluate import NEW_TOKENS
from kdtool.tasks.language.evaluation.target import find, open_target, place_of
from kdtool.tasks.language.models.built import DRY_LENGTH, Built
from kdtool.tasks.language.models.tokens import Tokens, of_folder
from kdtool.tasks.language.models.writing import answers
from kdtool.tasks.prediction import Prediction
from kdtool.tasks.task import Say

UNIT = "prompts"


def predict(
    target: str,
    inputs: Sequence[str] = (),
    *,
    samples: Iterable[Any] | None = None,
    top: int = 1,
    new_tokens: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    say: Say | None = None,
    **others: Any,
) -> Iterator[Prediction]:
    """Return what a network goes on with after prompts, greedily: the likeliest token at each place.

    Args:
        target: a run's folder, a saved model's folder, a hub name or a .gguf file.
        inputs: files of a prompt a line, tables of questions as ``kdtool.generate`` takes them, or "-" for lines on
            standard input.
        samples: texts, or lists of messages {"role", "content"}, instead.
        top: has to be 1.
        new_tokens: of a completion at most.
        batch_size: prompts at once.
        device: where the network runs.
        overrides: ``data.template``: chat, plain (prompts are gone on with as they are), or auto: as the target's run
            was trained, else by the tokenizer's chat template where it has one.
        say: takes sentences for the user.
        others: what other tasks take: refused by name.

    Raises:
        InputError: something that was given is wrong.
    """
    if top != 1:
        raise InputError("--top does not apply to language models: leave it out.")
    for name in others:
        raise InputError(f"--{name.replace('_', '-')} does not apply to language models: leave it out.")
    check_given(batch_size, samples, inputs)
    found = find(target)
    tokens = of_folder(place_of(found))
    poser = Poser.of(tokens, _template(overrides), found.recipe)
    opened = open_target(found, tokens, tokens.size, DRY_LENGTH)
    for note in opened.notes if say is not None else ():
        say(note)  # type: ignore[misc]
    place, most, limit = pick_device(device), batch_size or AT_ONCE, new_tokens or NEW_TOKENS

    def complete(prompts: list[list[int]]) -> list[Mapping[str, Any]]:
        written = answers(opened.built, prompts, limit, place)
        return [{"completion": tokens.decode(each).strip(), "finished": len(each) < limit} for each in written]

    def readied(items: Iterable[Item]) -> Iterator[Item]:
        return (_ready(item, poser, opened.built, limit) for item in items)

    if samples is not None:
        chunks: Iterable[list[Item]] = in_chunks(readied(_given(samples)), most)
    else:
        # Every file is looked at before the first is read.
        parts = chain.from_iterable([_of_file(file) for file in inputs])
        chunks = (chunk for part in parts for chunk in in_chunks(readied(part), most))
    return applied(chunks, complete, UNIT)


def _template(overrides: Sequence[str]) -> str:
    for text in overrides:
        if recipes.split_override(text)[0] != "data.template":
            raise InputError(f"{text}: of the recipe's keys only data.template applies here.")
    recipe: Any = recipes.load(None, overrides, {"task": "language", "method": "none"})
    return str(recipe.data.template)


class Poser:
    """Makes prompts texts, as samples were in training.

    Args:
        tokens: the tokenizer.
        template: as ``data.template``.
        glue: what stands behind a prompt where no chat template writes it.
    """

    def __init__(self, tokens: Tokens, template: str, glue: str):
        if template == "chat" and tokens.template is None:
            raise InputError("data.template=chat: the tokenizer has no chat template. Use plain.")
        self.writer, self.glue = Writer(tokens, template, "completion"), glue

    @classmethod
    def of(cls, tokens: Tokens, template: str, recipe: Any) -> Poser:
        """Return what poses prompts to a network.

        Args:
            tokens: its tokenizer.
            template: as the user asks for.
            recipe: of the network's run; None: it has none.
        """
        example = an_example(recipe.data) if recipe is not None else None
        glue = example.glue if isinstance(example, Chat) else ""
        if template == "auto" and recipe is not None:
            # A network that only saw plain texts knows no turns.
            template = "plain" if isinstance(example, str) else recipe.data.template
        return cls(tokens, template, glue)

    def __call__(self, row: Row) -> str:
        """Return a prompt's text.

        Raises:
            Unfit: the chat template refuses it, or it holds what begins and ends turns there.
        """
        return self.writer.prompt(Chat((*row.history, ("user", row.question), (ASSISTANT, "")), self.glue))


def _ready(item: Item, poser: Poser, built: Built, new_tokens: int) -> Item:
    """Return an item with its prompt in tokens, or with what is wrong with it."""
    if item.problem:
        return item
    try:
        ids = ids_of(built, poser(item.content))
        longest = getattr(built.module.config, "max_position_embeddings", None)
        if longest is not None and len(ids) + new_tokens > longest:
            raise Unfit(
                f"its {len(ids):,} tokens and {new_tokens:,} new ones (--new-tokens) are more than {longest:,}."
            )
        if not ids:
            raise Unfit("it has no token.")
    except Unfit as why:
        return Item(item.file, item.line, item.shown, problem=str(why))
    return Item(item.file, item.line, item.shown, ids)


def _given(samples: Iterable[Any]) -> Iterator[Item]:
    for number, sample in enumerate(samples, 1):
        try:
            if isinstance(sample, str):
                yield Item("", number, sample, Row("", {"question": sound(sample, "its text")}))
            else:
                row = row_of_messages(sample)
                yield Item("", number, row.question, row)
        except Unfit as why:
            yield Item("", number, str(sample).encode(errors="replace").decode(), problem=str(why))


def _of_file(file: str) -> Iterator[Iterable[Item]]:
    """Yield a file's prompts, those of a stream as many at a time as came together.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if file == "-":
        import sys

        return _of_stream(file, sys.stdin.buffer)
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(
            f"{file} is a folder; name a file of prompts, or - for standard input."
            if path.is_dir()
            else f"there is no file {file!r}; - is standard input."
        )
    kind = path.suffix.lower()
    return iter([_of_table(file, path)]) if kind in TABLES else _of_path(file, path)


def _of_table(file: str, path: Path) -> Iterator[Item]:
    found = questions(TABLES[path.suffix.lower()](path, file))
    return (
        Item(file, line, "", problem=str(row)) if isinstance(row, Unfit) else Item(file, line, row.question, row)
        for line, row in found
    )


def _of_path(file: str, path: Path) -> Iterator[Iterable[Item]]:
    with path.open("rb") as stream:
        yield from _of_stream(file, stream)


def _of_stream(file: str, stream: IO[bytes]) -> Iterator[Iterable[Item]]:
    number = 0
    for some in blocks(stream):
        items = []
        for line in some:
            number += 1
            text, problem = decoded(line)
            if text.strip() or problem:
                text = text.rstrip("\r")
                items.append(Item(file, number, text, Row(str(number), {"question": text}), problem))
        yield items
