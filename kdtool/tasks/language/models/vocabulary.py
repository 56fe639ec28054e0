"""Whether networks speak of the same tokens: compared one by one, and cut to those that all know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdtool.errors import InputError
from kdtool.tasks.language.models.tokens import Tokens


def differing(one: Tokens, other: Tokens) -> list[int]:
    """Return the numbers, of those that two tokenizers both have, under which they have another token."""
    ours, theirs = one.by_number, other.by_number
    return [i for i in range(min(one.size, other.size)) if ours.get(i) != theirs.get(i)]


def common(
    student: Tokens, teachers: Sequence[tuple[str, Tokens]], able: Callable[[], Sequence[str]] = tuple
) -> tuple[int, list[str]]:
    """Return V, how many tokens from number 0 on the student and all teachers share, and sentences on what is cut.

    Padding of a vocabulary at its end, and tokens that one of them has beyond the others', are left out.

    Args:
        student: its tokenizer.
        teachers: (name, tokenizer) each.
        able: returns the methods that can learn from another vocabulary.

    Raises:
        InputError: a teacher has another token under some number.
    """
    size = min([student.size, *(tokens.size for _, tokens in teachers)])
    notes = []
    for name, theirs in teachers:
        other = differing(student, theirs)
        if other:
            first, ours = other[0], student.by_number
            methods = " or ".join(able())
            way = f"choose a method that learns from other tokens (--method {methods}), " if methods else ""
            raise InputError(
                f"teacher {name} has another vocabulary than the student: {len(other):,} tokens differ, "
                f"the first is {first}, {theirs.by_number.get(first)!r} instead of {ours.get(first)!r}. Take a teacher "
                f"and a student of one family, {way}let the student take the teacher's tokenizer "
                "(student.tokenizer=FOLDER, a student from scratch), cut it out of the teacher "
                "(student.from_teacher.layers=N), or train on texts that the teacher wrote (--method none)."
            )
        if theirs.size != student.size:
            notes.append(
                f"teacher {name} has {theirs.size:,} tokens and the student {student.size:,}: the first {size:,} are "
                "the same, and the others are left out"
            )
    return size, notes
