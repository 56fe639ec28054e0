"""What a sample is before it is in tokens: a chat, or a plain text; and as text, with what is to be learnt of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdtool.errors import first_line
from kdtool.tasks.common.files.cells import Unfit
from kdtool.tasks.language.models.tokens import Tokens

ASSISTANT = "assistant"
"""Whose turns a student learns to write."""


@dataclass(frozen=True)
class Chat:
    """Turns of a conversation.

    Attributes:
        turns: (role, content) each, at least one of them the assistant's.
        glue: what stands between two turns where there is no chat template.
        kind: what it is for a method that tells kinds apart, such as "rationale"; "": the data do not say.
        weight: how much it counts among those of its kind.
    """

    turns: tuple[tuple[str, str], ...]
    glue: str = "\n"
    kind: str = ""
    weight: float = 1.0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as a chat template takes them."""
        return [{"role": role, "content": content} for role, content in self.turns]

    @property
    def answers(self) -> list[int]:
        """Which turns are the assistant's."""
        return [number for number, (role, _) in enumerate(self.turns) if role == ASSISTANT]


Sample = Chat | str


@dataclass(frozen=True)
class Written:
    """A sample as one text.

    Attributes:
        text: the whole.
        learnt: which characters are to be learnt: (first, one past the last) each.
        whole: it is a plain text, which may be cut into pieces.
        answers: where each answer that is learnt stands, with what ends it: (first, one past its text, one past its
            end) each. The text is the same however the sample is written; (0, 0, 0) where a template changed it.
    """

    text: str
    learnt: tuple[tuple[int, int], ...]
    whole: bool = False
    answers: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Writer:
    """How samples become text.

    Attributes:
        tokens: whose chat template is used, and whose end token.
        template: ``data.template``.
        loss_on: ``data.loss_on``.
        marks: take turns that hold special tokens, which a tokenizer reads as the template's own.
    """

    tokens: Tokens
    template: str
    loss_on: str
    marks: bool = False

    @property
    def by_template(self) -> bool:
        """Whether turns are written by the chat template."""
        return self.template == "chat" or (self.template == "auto" and self.tokens.template is not None)

    def __call__(self, sample: Sample) -> Written:
        """Return a sample's text.

        Raises:
            Unfit: the chat template refuses it, or writes its earlier turns otherwise once there are later ones; or a
                turn holds a special token, and so might pretend to be several.
        """
        if isinstance(sample, str):
            text = sample + (self.tokens.end or "")
            return Written(text, ((0, len(text)),), whole=True, answers=((0, len(sample), len(text)),))
        answers = sample.answers[-1:] if self.loss_on == "last" else sample.answers
        text, learnt = (self._by_template if self.by_template else self._plain)(sample, answers)
        places = (_place(text, span, sample.turns[number][1]) for number, span in zip(answers, learnt, strict=True))
        return Written(text, ((0, len(text)),) if self.loss_on == "all" else tuple(learnt), answers=tuple(places))

    def prompt(self, sample: Sample) -> str:
        """Return what stands before the last answer: what a network is given to go on from.

        Raises:
            Unfit: as for a whole sample, or it is a plain text.
        """
        if isinstance(sample, str):
            raise Unfit("it is a plain text, without a prompt.")
        last = sample.answers[-1]
        if self.by_template:
            return self._chat(sample.messages[:last], prompt=True)
        return self._joined(sample, last)

    def _by_template(self, sample: Chat, answers: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        text, learnt = self._chat(sample.messages), []
        for number in answers:
            before = self._before(sample, number, text)
            through = self._chat(sample.messages[: number + 1])
            if not text.startswith(before) or not text.startswith(through) or len(through) <= len(before):
                raise Unfit(
                    f"the chat template writes its turn {number + 1} otherwise once others follow: use "
                    "data.loss_on=last, or all."
                )
            learnt.append((len(before), self._end(through)))
        return text, learnt

    def _before(self, sample: Chat, number: int, text: str) -> str:
        """Return what a template writes before a turn of the assistant's; few take a chat without any turn."""
        if number:
            return self._chat(sample.messages[:number], prompt=True)
        return text[: max(0, text.find(sample.turns[0][1]))]

    def _end(self, through: str) -> int:
        """Return where an answer ends: behind its end token, not behind the white space that follows it."""
        bare = through.rstrip()
        return len(bare) if bare.endswith(tuple(self.tokens.special)) else len(through)

    def _chat(self, messages: list[dict[str, str]], prompt: bool = False) -> str:
        for message in () if self.marks else messages:
            mark = next((each for each in self.tokens.special if each in message["content"] + message["role"]), None)
            if mark is not None:
                raise Unfit(f"it holds {mark!r}, which the chat template ends turns with.")
        try:
            return self.tokens.chat(messages, prompt)
        except Exception as error:  # a template is a program of its author's
            raise Unfit(f"the chat template refuses it ({first_line(error)}).") from error

    def _plain(self, sample: Chat, answers: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        learnt, text = [], ""
        for number, (role, content) in enumerate(sample.turns):
            text = self._joined(sample, number)
            start = len(text)
            text += content + (self.tokens.end or "" if role == ASSISTANT else "")
            if number in answers:
                learnt.append((start, len(text)))
        return text, learnt

    def _joined(self, sample: Chat, count: int) -> str:
        """Return the first turns, and what stands before the next."""
        end = self.tokens.end or ""
        each = (content + (end if role == ASSISTANT else "") + sample.glue for role, content in sample.turns[:count])
        return "".join(each)


def _place(text: str, span: tuple[int, int], answer: str) -> tuple[int, int, int]:
    """Return where in a span an answer stands, but for white space around it, as in ``Written.answers``."""
    bare = answer.strip()
    at = text.find(bare, *span) if bare else -1
    return (at, at + len(bare), span[1]) if at >= 0 else (0, 0, 0)
