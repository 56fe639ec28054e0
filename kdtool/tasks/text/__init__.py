"""Sentences, one class each: from any encoder of transformers to networks that fit a phone. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kdtool.errors import InputError
from kdtool.events import Metric
from kdtool.recipe import schema
from kdtool.tasks import task
from kdtool.tasks.text import options

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from kdtool.engine.job import Batches
    from kdtool.method import Method
    from kdtool.tasks.common.classification import Classification
    from kdtool.tasks.common.data_report import DataReport
    from kdtool.tasks.common.held import HeldSplit
    from kdtool.tasks.prediction import Prediction
    from kdtool.tasks.task import Reading, Say
    from kdtool.tasks.text.data.dataset import TextData
    from kdtool.tasks.text.models.built import Built, Inputs
    from kdtool.tasks.text.networks import Adapted


class Text(task.Task):
    """Classification of sentences."""

    api = 1
    name = "text"
    unit = "sentences"
    headline = Metric("top1", "accuracy")
    Data = options.Data
    Teacher = options.Teacher
    Student = options.Student
    ships_layers = True
    corrupted = "typos"
    views: ClassVar[Mapping[str, str]] = {
        "strong": "a share of data.strong of the words hidden, left out or replaced, in equal parts"
    }

    def check(self, recipe: schema.Recipe, methods: Mapping[str, type[Method]]) -> None:
        """Refuse shares of words that are more than all of them."""
        data = cast(options.Data, recipe.data)
        if data.mask + data.drop + data.replace > 1:
            raise InputError(
                f"data.mask={data.mask:g}, data.drop={data.drop:g} and data.replace={data.replace:g} are shares of a "
                "text's words: together at most 1."
            )

    def open(self, recipe: schema.Recipe) -> TextData:
        """Open a table, a folder of tables, a name of the hub, or the sentences of Python's own documentation."""
        from kdtool.tasks.text.data.open import open_data

        return open_data(cast(options.Data, recipe.data))

    def look(self, data: TextData, recipe: schema.Recipe) -> DataReport:
        """Return the classes, and texts that are trained on and measured on."""
        from kdtool.tasks.common.data_report import report_of

        report = report_of(data, self.unit, data.origins)
        report.notes += data.notes
        return report

    def transfer_set(self, data: TextData, recipe: schema.Recipe) -> HeldSplit:
        """Return the student's training set: fewer classes or labels, and unlabelled lines beside."""
        from kdtool.tasks.text.data.open import thin

        return thin(data, cast(options.Data, recipe.data))

    def student(self, recipe: schema.Recipe, data: TextData) -> Built:
        """Return the student; where it has no tokenizer of its own it takes the first teacher's."""
        from kdtool.tasks.text.networks import build_student

        return build_student(recipe, data)

    def teachers(self, recipe: schema.Recipe, data: TextData, online: bool) -> list[task.Built]:
        """Return the teachers, each with its own tokenizer."""
        from kdtool.tasks.common.own_classes import check_teachers
        from kdtool.tasks.text.networks import build_teachers

        found = build_teachers(recipe, data, online)
        check_teachers(found, recipe.teacher, data.class_names)
        return list(found)

    def adapt(self, network: Any, teacher: task.Built, student: task.Built) -> Adapted:
        """Return a teacher that reads its own tokens of the same sentences, and speaks of the student's."""
        from kdtool.tasks.text.networks import Adapted

        return Adapted(network, cast("Built", student).tokens.digest)

    def dry_inputs(self, networks: Sequence[task.Built], count: int) -> Inputs:
        """Return numbers of every tokenizer, a token of one beside each of the others'."""
        from kdtool.tasks.text.data.batches import side_by_side

        return side_by_side([each.dry_inputs(count) for each in networks])

    def batches(
        self, data: TextData, split: HeldSplit, recipe: schema.Recipe, networks: Sequence[task.Built], reading: Reading
    ) -> Batches:
        """Return a split's batches, to train on of sentences of like length."""
        from kdtool.tasks.common.held import HeldBatches
        from kdtool.tasks.common.side_by_side import SideBySide
        from kdtool.tasks.text.data.batches import Maker
        from kdtool.tasks.text.data.views import strong_views, views_of
        from kdtool.tasks.text.networks import keys_of

        cfg = cast(options.Data, recipe.data)
        views = views_of(cfg, data.train) if reading.train else None
        keys = keys_of(cast("list[Built]", list(networks)))
        make = Maker(split, keys, views)
        lengths = make.lengths if reading.train else None
        usual = HeldBatches(split, reading, make, cfg, lengths=lengths)
        if not reading.views:
            return usual
        strong = Maker(split, keys, strong_views(cfg, data.train))
        return SideBySide(usual, {"strong": HeldBatches(split, reading, strong, cfg, lengths=lengths)})

    def objective(self, data: TextData, label_smoothing: float) -> Classification:
        """Return cross-entropy, with accuracy as what epochs are selected by."""
        from kdtool.tasks.common.classification import Classification

        return Classification(len(data.class_names), label_smoothing, self.headline)

    def versions(self, what: str) -> dict[str, str]:
        """Return the versions of transformers and tokenizers."""
        from importlib.metadata import version

        return {name: version(name) for name in ("transformers", "tokenizers")}

    def save(
        self, folder: Path, built: task.Built, state: Mapping[str, Tensor], data: TextData, recipe: schema.Recipe
    ) -> Path:
        """Write weights, configuration, tokenizer and class names."""
        from kdtool.tasks.text.models.save import save_student

        pairs = data.texts.second is not None
        return save_student(folder, cast("Built", built), state, data.class_names, pairs)

    def how_to_open(self, built: task.Built, folder: Path) -> str:
        """Return transformers' line, or that of a small network or a user's own."""
        from kdtool.tasks.text.models.save import how_to_open

        return how_to_open(cast("Built", built), folder)

    def knows(self, path: Path) -> bool:
        """Return whether a classifier of transformers or one of kdtool's own lies there, or an export of one."""
        from kdtool.tasks.common.targets import config_of, is_architecture

        folder = path if path.is_dir() else path.parent
        own = {"vocab_size", "label_names"} <= set(config_of(folder))
        return own or is_architecture(folder, "ForSequenceClassification") or (folder / options.SERVING).is_file()

    def evaluate(self, target: str, data: str | None, **given: Any) -> dict[str, Any]:
        """See ``kdtool.tasks.text.evaluation.evaluate``."""
        from kdtool.tasks.text.evaluation.evaluate import evaluate

        return evaluate(target, data, **given)

    def predict(self, target: str, inputs: Sequence[str], **given: Any) -> Iterator[Prediction]:
        """See ``kdtool.tasks.text.predict``."""
        from kdtool.tasks.text.predict import predict

        return predict(target, inputs, **given)

    def sections(self, run: Path, recipe: schema.Recipe, say: Say) -> Any:
        """Return classes, calibration, soft labels and embeddings of a run."""
        from kdtool.tasks.text.page import sections

        return sections(run, recipe, say)

    def token_counts(self, split: HeldSplit, student: task.Built, batches: Batches) -> np.ndarray:
        """Return the tokens of the texts as they stand; batches of changed texts know their characters alone."""
        from kdtool.tasks.text.lengths import token_counts

        return token_counts(cast("Built", student).tokens, split)

    def stages(self, built: task.Built) -> list[dict[str, Any]]:
        """Return the layers that give token sequences, and the head."""
        from kdtool.tasks.text.stages import stages

        return stages(cast("Built", built))

    def export(self, target: str, to: Sequence[str] | None, **given: Any) -> dict[str, Any]:
        """See ``kdtool.tasks.text.export.export``."""
        from kdtool.tasks.text.export.export import export

        return export(target, to, **given)

    def profiled(self, target: str, say: task.Say, **given: Any) -> list[task.Profiled]:
        """Return a run's teachers, student and exports, or the one network that is named."""
        from kdtool.tasks.text.profiled import profiled

        self.refuse_others(given, {"length"})
        return profiled(target, say, **given)

    def specimens(self) -> task.Specimens:
        """Return sixty sentences, and the small networks."""
        from kdtool.tasks.text import specimens

        return task.Specimens(specimens.MODELS, specimens.write)

    def model_names(self, quick: bool) -> list[str]:
        """Return the names that need no hub."""
        return ["bilstm", "textcnn", "transformer-tiny", "transformer-mini"]
