"""What a page is made of, as plain data: a task returns these and knows no HTML. Texts are shown letter by letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Figure = dict[str, Any]
"""A plotly figure: see ``kdtool.report.charts``."""


@dataclass(frozen=True)
class Chart:
    """A card with a figure.

    Attributes:
        figure: None where there is nothing to draw; the card is then left out.
        about: a sentence above it.
        wide: over the whole width.
    """

    kind: ClassVar[str] = "chart"
    title: str
    figure: Figure | None
    about: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A card with a table of texts, over the whole width.

    Attributes:
        titles: of the columns.
        rows: of one text a column.
        numbers: from which column on texts stand flush right.
        main: the row that stands out.
        about: a sentence above it.
        folded: shut until it is asked for, where it is long.
    """

    kind: ClassVar[str] = "table"
    title: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int
    main: int | None = None
    about: str = ""
    folded: bool = False
    wide: ClassVar[bool] = True


@dataclass(frozen=True)
class Guess:
    """A class and its probability, in [0, 1]."""

    name: str
    p: float

    @property
    def width(self) -> int:
        """Of its bar, in percent: one that can be seen."""
        return max(1, round(100 * self.p))


@dataclass(frozen=True)
class Opinion:
    """What a network takes a sample for.

    Attributes:
        part: "teacher", "student" or "baseline": gives the colour.
        about: a heading, such as "teacher, T = 4".
        guesses: the likeliest first.
    """

    part: str
    about: str
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class Picture:
    """A small image.

    Attributes:
        content: base64.
        alt: what it shows.
        format: "png" or "jpeg".
    """

    content: str
    alt: str
    format: str = "png"


@dataclass(frozen=True)
class Sample:
    """One sample as it is, and what networks make of it.

    Attributes:
        label: what it is.
        picture: it, where it can be seen.
        text: it, where it can be read.
        opinions: of the networks.
    """

    label: str
    picture: Picture | None = None
    text: str = ""
    opinions: Sequence[Opinion] = ()


@dataclass(frozen=True)
class Samples:
    """A card with samples, over the whole width; ``about`` is a sentence above them."""

    kind: ClassVar[str] = "samples"
    title: str
    samples: Sequence[Sample]
    about: str = ""
    wide: ClassVar[bool] = True


@dataclass(frozen=True)
class Shot:
    """A picture on a contact sheet.

    Attributes:
        picture: it.
        label: what it is.
        guess: what a network takes it for.
        title: shown where one points at it.
    """

    picture: Picture
    label: str
    guess: Guess
    title: str = ""

    @property
    def right(self) -> bool:
        """Whether the network is right."""
        return self.guess.name == self.label


@dataclass(frozen=True)
class Sheet:
    """A card with many small pictures, over the whole width; ``about`` is a sentence above them."""

    kind: ClassVar[str] = "sheet"
    title: str
    shots: Sequence[Shot]
    about: str = ""
    wide: ClassVar[bool] = True


@dataclass(frozen=True)
class Note:
    """A card with a sentence, over the whole width."""

    kind: ClassVar[str] = "note"
    text: str
    title: str = ""
    about: ClassVar[str] = ""
    wide: ClassVar[bool] = True


Section = Chart | Table | Samples | Sheet | Note
"""A card of the page."""

Fact = tuple[str, str]
"""What is told, and its figure, in large type."""


@dataclass(frozen=True)
class Network:
    """A row of the table of networks.

    Attributes:
        part: "teacher" ("teacher 1" and so on of several), "student" or "baseline".
        name: of the model.
        value: of the metric that the run's epochs are selected by, on the test split.
        more: further figures there, by the column's title.
        params, macs, bytes: None where unknown.
    """

    part: str
    name: str
    value: float | None
    more: Mapping[str, str] = field(default_factory=dict)
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class RunSections:
    """What a task gives to a run's page.

    Attributes:
        cards: below those on the log, in order.
        networks: as it measured them: teachers in order, the student, the baseline; empty: as ``result.json`` has them.
        facts: after those that every run has.
        inputs: how the samples were shown to the networks, ends "measured on 360 test images of digits": "at 32x32".
        notes: on what could not be measured.
        document: what ``kdtool report --json`` has beside what every run has.
    """

    cards: Sequence[Section] = ()
    networks: Sequence[Network] = ()
    facts: Sequence[Fact] = ()
    inputs: str = ""
    notes: Sequence[str] = ()
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chapter:
    """A run's or a comparison's part of the page.

    Attributes:
        folder: its own, and the heading.
        sentences: in ordinary type.
        notes: small and grey.
        facts: in large type.
        cards: side by side where there is room.
    """

    folder: str
    sentences: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Sequence[Fact] = ()
    cards: Sequence[Section] = ()
