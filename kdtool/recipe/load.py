"""Recipes: file, flags and overrides merged into one typed whole, and the rules between its sections.

A recipe file is YAML with the sections of ``schema.Recipe``, ``teacher`` being one section or a list of them,
and each method's options under the method's own name. Later wins: file, then flags, then overrides. Importing this
module imports neither torch nor any plugin; the core's own keys are checked before the methods' classes are loaded.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool import registry
from kdtool.errors import InputError
from kdtool.recipe import yaml_file as recipe_file
from kdtool.recipe.names import is_own_file
from kdtool.recipe.rules import check_online, check_stream, check_values, settle_teachers
from kdtool.recipe.schema import RESERVED, Data, Recipe, Student, recipe_type
from kdtool.recipe.sections import Typed, build, key_names, to_plain, unknown_key
from kdtool.registry import tasks

if TYPE_CHECKING:
    from kdtool.method import Method
    from kdtool.tasks.task import Task

Note = Callable[[str], None]

_MODELS = ("teacher", "student")
_NAMES_CODE = (*_MODELS, "assistants")
_TOP = {field.name for field in fields(Recipe)} - {"options"}
_SECTIONS = {key.split(".")[0] for key in key_names(Recipe) if "." in key}
_OVERRIDE = re.compile(r"(?P<key>[A-Za-z_][\w.-]*)=(?P<text>.*)", re.DOTALL)


def load(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    note: Note | None = None,
) -> Recipe:
    """Return the checked recipe of a file, flags and overrides.

    Args:
        path: a YAML file, or the name of a shipped recipe; None: defaults only.
        overrides: texts ``key=value`` with dotted keys; the value is YAML (text keys take it as it is).
            ``teacher.key`` goes to every teacher, ``teacher.0.key`` to the first.
        flags: values by dotted key. A list for ``teacher.model`` or ``teacher.weights`` holds one entry a teacher.
        note: called with sentences that the user should read (sections that are not used).

    Raises:
        InputError: whatever is wrong, naming the key, what was given and what is valid. Also where the file, which may
            be a stranger's, names code to run or a folder elsewhere to write to that neither flags nor overrides name.
    """
    for key, value in (flags or {}).items():
        if value == "":  # likelier an unset shell variable than a wish for the default
            raise InputError(f"{key} is empty; leave it out for the default.")
    given = [*(flags or {}).items(), *map(split_override, overrides)]
    if path is None:
        return _resolve({}, given, note)
    raw = to_plain(recipe_file.read(recipe_file.find(path)))  # aliases become copies
    _refuse_place(raw.get("out"), given)
    recipe = _resolve(raw, given, note)
    _refuse_code(recipe, given)
    return recipe


def from_dict(raw: Mapping[str, Any], note: Note | None = None) -> Recipe:
    """Return the checked recipe of plain data; top-level keys may be dotted (``{"train.epochs": 3}``).

    Raises:
        InputError: as for ``load``.
    """
    plain = to_plain(raw)
    recipe_file.refuse_unsafe(plain, "recipe")
    return _resolve(plain, [], note)


def validate(recipe: Recipe) -> Recipe:
    """Return ``recipe`` checked as if it came from a file, with defaults for what it leaves open.

    Raises:
        InputError: as for ``load``.
    """
    plain = to_dict(recipe)
    for section in (Student, Data):  # made in Python without saying which task's
        if (name := section.__name__.lower()) and getattr(recipe, name) == section():
            del plain[name]
    return from_dict(plain)


def with_method(recipe: Recipe, name: str) -> Recipe:
    """Return a checked recipe with another method and that one's defaults; without teachers where it takes none.

    Raises:
        InputError: the method does not go with the rest.
    """
    changed = replace(copy.deepcopy(recipe), method=name, options={})
    if registry.get(name).teachers[1] == 0:
        changed.teacher = []
    return _settled(changed, {}, tasks.get(recipe.task))


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain nested data: one teacher as a section, methods' options under the methods' names."""
    plain: dict[str, Any] = to_plain(recipe)
    options: dict[str, Any] = plain.pop("options")
    if len(plain["teacher"]) == 1:
        plain["teacher"] = plain["teacher"][0]
    return {**plain, **options}


def to_yaml(recipe: Recipe, header: str = "") -> str:
    """Return the whole recipe as YAML that loads back to an equal one; ``header`` becomes a comment on top."""
    return recipe_file.dump(to_dict(recipe), header)


def parts(recipe: Recipe | str) -> list[str]:
    """Return the names of the methods that a recipe joins, in order; an empty list for ``none``."""
    method = recipe if isinstance(recipe, str) else recipe.method
    found = [name.strip() for name in method.split("+")]
    return [] if found == [registry.NONE] else found


def split_override(text: str) -> tuple[str, Typed]:
    """Return key and value of ``key=value``.

    Raises:
        InputError: it has no such form.
    """
    match = _OVERRIDE.fullmatch(text)
    if not match:
        raise InputError(f"{text!r} is no override; expected key=value, such as train.epochs=5.")
    if match["text"] == "":
        raise InputError(f"{match['key']}= has no value; write {match['key']}=null for none.")
    recipe_file.refuse_unsafe(match["text"], match["key"])
    return match["key"], Typed(match["text"])


class UnnamedCode(InputError):
    """A recipe asks for code in a file that the user did not name."""


def own_code(recipe: Recipe) -> list[tuple[str, str]]:
    """Return key and name of each model whose architecture is a user's own file, which building it runs."""
    models = [(f"teacher.{number}.model", teacher.model) for number, teacher in enumerate(recipe.teacher)]
    models += [("student.model", recipe.student.model)]
    models += [(f"assistants.{number}", model) for number, model in enumerate(recipe.assistants)]
    return [(key, model) for key, model in models if is_own_file(model)]


def _refuse_code(recipe: Recipe, given: list[tuple[str, Any]]) -> None:
    named = {text for key, value in given if key.split(".")[0] in _NAMES_CODE for text in _texts(value)}
    for key, model in own_code(recipe):
        if model not in named:
            flag = f"--{key.split('.')[0].removesuffix('s')}"
            raise UnnamedCode(
                f"{key}={model} would run the code in that file, which a recipe alone may not ask for. If you trust "
                f"it, name it on the command line too: {flag} {model}"
            )


def _texts(value: Any) -> list[str]:
    """Return all texts within a value as somebody gave it."""
    if isinstance(value, Typed):
        return [str(value), *_texts(value.parsed())]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def _refuse_place(out: Any, given: list[tuple[str, Any]]) -> None:
    if not isinstance(out, str) or "out" in dict(given):
        return
    if Path(out).expanduser().is_absolute() or ".." in Path(out).parts:
        raise InputError(
            f"out={out} leads out of the current folder, which a recipe alone may not ask for. Give it on the command "
            f"line: --out {out}"
        )


def keys(recipe_class: type[Recipe]) -> list[str]:
    """Return the dotted names of a task's keys, those of methods left out."""
    return [key for key in key_names(recipe_class) if key != "options"]


def _resolve(data: Mapping[str, Any], given: list[tuple[str, Any]], note: Note | None) -> Recipe:
    """Merge, build and check.

    Args:
        data: what the file (or the dictionary) says.
        given: what flags and overrides say, in order.
        note: see ``load``.
    """
    raw = {key: value for key, value in data.items() if "." not in key}
    late = [*((key, value) for key, value in data.items() if "." in key), *given]
    for key, value in late:
        if key in ("method", "task"):
            raw[key] = str(value)
    task, recipe_class = _task(raw)
    valid, names = keys(recipe_class), _method_names(raw)
    raw["method"] = "+".join(names) or registry.NONE
    _drop_unused(raw, names, note, valid)
    raw = {key: _as_section(key, value) for key, value in raw.items()}
    for key, value in late:
        _refuse_foreign(key, names, valid)
        if key in ("teacher.model", "teacher.weights") and isinstance(value, (list, tuple)):
            _assign_each_teacher(raw, key.split(".")[1], list(value))
        elif key not in ("method", "task"):
            _assign(raw, key.split("."), value, key)
    core = build(recipe_class, {key: value for key, value in raw.items() if key not in names}, "", valid)
    return _settled(core, raw, task, note)


def _settled(core: Recipe, raw: Mapping[str, Any], task: Task, note: Note | None = None) -> Recipe:
    """Return a recipe with its methods' options, which ``raw`` has by the methods' names, checked as a whole."""
    methods = {name: registry.get(name) for name in parts(core)}
    settle_teachers(core, methods, task, note)
    for name, method in methods.items():
        own = raw.get(name, {})
        own = {**_defaults(method, task), **own} if isinstance(own, Mapping) else own
        core.options[name] = build(method.Config, own, name)
    check_values(core)
    check_stream(core, task)
    check_online(core, methods)
    task.check(core, methods)
    return core


def _task(raw: dict[str, Any]) -> tuple[Task, type[Recipe]]:
    """Return the recipe's task and the type of its recipes; note the task in ``raw``."""
    default, named = tasks.default(), raw.get("task") or tasks.default()
    if not isinstance(named, str):
        raise InputError(f"task: expected a name, got {named!r}.")
    raw["task"] = named
    task = tasks.get(named)
    return task, recipe_type(task, default)


def _defaults(method: type[Method], task: Task) -> dict[str, Any]:
    """Return the task's say in a method's defaults: of the options that the method has."""
    return {field.name: task.method_defaults[field.name]
            for field in fields(method.Config) if field.name in task.method_defaults}  # fmt: skip


# --- merging plain data ---------------------------------------------------------------------------------------------


def _method_names(raw: Mapping[str, Any]) -> list[str]:
    """Return the parts of the recipe's method, checked as names only."""
    method = raw.get("method") or registry.default()
    if not isinstance(method, str):
        raise InputError(f"method: expected a name, or names joined by +, got {method!r}.")
    names = parts(method)
    if "" in names:
        raise InputError(f"method={method!r}: a name is missing beside a +.")
    if registry.NONE in names:
        raise InputError(f"method={method!r}: {registry.NONE!r} is a run without a method and joins no other.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"method={method!r}: {twice[0]!r} is there twice.")
    return names


def _drop_unused(raw: dict[str, Any], names: list[str], note: Note | None, valid: list[str]) -> None:
    """Leave out a file's options of installed methods that this run does not use; refuse unknown sections."""
    unused = [key for key in raw if key not in names and key not in _TOP]
    for key in unused:
        if key not in registry.names():
            _refuse_foreign(key, names, valid)
        del raw[key]
    if unused and note:
        listed, plural = ", ".join(map(repr, unused)), len(unused) > 1
        note(
            f"the recipe's section{'s' * plural} {listed} {'are' if plural else 'is'} not used: the run's method is "
            f"{raw['method']}."
        )


def _refuse_foreign(key: str, names: list[str], valid: list[str]) -> None:
    """Refuse a key outside the core's sections and those of the run's own methods."""
    top = key.split(".")[0]
    if top in names or top in _TOP:
        return
    if top in RESERVED:
        raise InputError(f"the section {top!r} is reserved for a later version of kdtool.")
    if top in registry.names():
        method = "+".join(names) or registry.NONE
        raise InputError(f"{key!r} is an option of a method that this run does not use: its method is {method}.")
    options = [each for name in names for each in key_names(registry.get(name).Config, name)]
    raise unknown_key(key, [*valid, *options])


def _as_section(key: str, value: Any) -> Any:
    """Bring a top-level value to its full form: a model's name stands for a section, one teacher for a list."""
    if isinstance(value, Typed):
        value = value.parsed()
    if value is None and (key in _SECTIONS or key not in _TOP):
        return [] if key == "teacher" else {}
    if key not in _MODELS:
        return value
    several = list(value) if key == "teacher" and isinstance(value, (list, tuple)) else [value]
    several = [{"model": each} if isinstance(each, str) else each for each in several]
    return several if key == "teacher" else several[0]


def _assign(target: Any, path: list[str], value: Any, key: str) -> None:
    """Set one dotted key within nested plain data; a key of ``teacher`` without a number goes to every teacher."""
    head, rest = path[0], path[1:]
    if isinstance(target, list):
        if head.isdigit() and int(head) < len(target):
            if rest:
                _assign(target[int(head)], rest, value, key)
            else:
                target[int(head)] = value
            return
        if not key.startswith("teacher.") or head.lstrip("-").isdigit():
            raise InputError(f"{key}: there is no number {head!r} in a list of {len(target)}; they count from 0.")
        for each in target:
            _assign(each, path, value, key)
        return
    if not isinstance(target, dict):
        raise InputError(f"unknown key {key!r}: {target!r} has no keys of its own.")
    if not rest:
        target[head] = _as_section(head, value) if key in _MODELS else value
        return
    if target.get(head) is None or (key.startswith("teacher.") and target[head] == []):
        target[head] = [{}] if key.startswith("teacher.") and head == "teacher" else {}
    _assign(target[head], rest, value, key)


def _assign_each_teacher(raw: dict[str, Any], name: str, values: list[Any]) -> None:
    """Spread a repeated flag over the teachers; ``--teacher`` also decides how many there are."""
    teachers = raw.get("teacher") or [{}]
    if name == "model":
        # What a recipe says beside the model's name stays where there is a teacher at that place.
        teachers = [dict(teachers[i]) if i < len(teachers) else {} for i in range(len(values))]
    elif len(values) != len(teachers):
        raise InputError(
            f"--teacher-{name} is there {len(values)} times for {len(teachers)} teachers; "
            "give it once for each --teacher, in the same order."
        )
    for teacher, value in zip(teachers, values, strict=True):
        teacher[name] = value
    raw["teacher"] = teachers
