"""Causal language models: the next token, learnt from a larger model's distributions. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdtool.errors import InputError
from kdtool.events import Metric
from kdtool.recipe import schema
from kdtool.tasks import task
from kdtool.tasks.language import options

if TYPE_CHECKING:
    from torch import Tensor

    from kdtool.engine.job import Batches, Writer
    from kdtool.method import Method
    from kdtool.tasks.common.adapted import Unchanged
    from kdtool.tasks.common.data_report import DataReport
    from kdtool.tasks.language.answerer import Answerer
    from kdtool.tasks.language.data.dataset import LanguageData, Split
    from kdtool.tasks.language.models.built import Built
    from kdtool.tasks.language.objective import NextToken
    from kdtool.tasks.prediction import Prediction
    from kdtool.tasks.task import Reading

UNUSED = ("labels_per_class", "exclude_classes", "unlabelled")
"""Keys of ``data`` that speak of classes, which tokens are not."""


class Language(task.Task):
    """Causal language models, chats and plain texts."""

    api = 1
    name = "language"
    unit = "samples"
    headline = Metric("perplexity", "perplexity", larger_is_better=False, percent=False)
    Data = options.Data
    Teacher = options.Teacher
    Student = options.Student
    streams = "data.name=FOLDER, with shards train-001.jsonl, .jsonl.gz, .parquet or .txt and a test split beside them"
    method_defaults = {"temperature": 1.0}  # noqa: RUF012 - as the base declares it

    def check(self, recipe: schema.Recipe, methods: Mapping[str, type[Method]]) -> None:
        """Refuse what speaks of classes of samples."""
        data = recipe.data
        for key in UNUSED:
            if getattr(data, key):
                raise InputError(
                    f"data.{key}={getattr(data, key)}: language models have no classes of samples; leave it out."
                )
        own = cast(options.Data, data).on_policy
        if own and not methods:
            raise InputError(f"data.on_policy={own}: nobody says what the student's own answers should have been, "
                             "without a method (--method gkd).")  # fmt: skip
        if data.sampler != "random":
            raise InputError(f"data.sampler={data.sampler}: language models have no classes of samples. Valid: random.")

    def streamed(self, name: str) -> bool:
        """Return whether it is a place where files can be; what the hub has is read whole."""
        return name != "pydocs" and (not name.startswith("hf/") or Path(name).exists())

    def open(self, recipe: schema.Recipe) -> LanguageData:
        """Open chats and texts, and put them into the tokens of the recipe's student."""
        from kdtool.tasks.language.data.open import in_tokens, read_data
        from kdtool.tasks.language.networks import spoken

        cfg = cast(options.Data, recipe.data)
        raw = read_data(cfg, recipe.train.steps is not None)
        found = spoken(recipe, raw.texts())
        data = in_tokens(raw, cfg, found.tokens, found.size, found.others)
        data.notes.extend(found.notes)
        return data

    def look(self, data: LanguageData, recipe: schema.Recipe) -> DataReport | None:
        """Return what a stream and the splits beside it hold; of data that are held their notes say it all."""
        from kdtool.tasks.language.data.stream import report_of

        return report_of(data, self.unit) if data.stream is not None else None

    def student(self, recipe: schema.Recipe, data: LanguageData) -> Built:
        """Return the student, and say how well it predicts before it is trained."""
        from kdtool.tasks.language.networks import build_student, say_start

        built = build_student(recipe, data)
        say_start(built, data)
        return built

    def teachers(self, recipe: schema.Recipe, data: LanguageData, online: bool) -> list[task.Built]:
        """Return the teachers, which read the student's tokens, or their own of the same samples."""
        from kdtool.tasks.language.networks import build_teachers

        return list(build_teachers(recipe, data, online))

    def adapt(self, network: Any, teacher: task.Built, student: task.Built) -> Unchanged:
        """Return the teacher as it is, built for the tokens that both know; or with what it reads besides."""
        from kdtool.tasks.common.adapted import Unchanged
        from kdtool.tasks.language.context import InContext
        from kdtool.tasks.language.translated import Translated

        built = cast("Built", teacher)
        if built.apart:
            return Translated(network, built.tokens.digest)
        return Unchanged(network) if built.context is None else InContext(network, built.context)

    def batches(
        self, data: LanguageData, split: Split, recipe: schema.Recipe, networks: Sequence[task.Built], reading: Reading
    ) -> Batches:
        """Return a split's batches; to train on of samples of like length, unless these are packed; or a stream's."""
        from kdtool.tasks.common.held import HeldBatches
        from kdtool.tasks.language.data.batches import Maker
        from kdtool.tasks.language.data.dataset import Split
        from kdtool.tasks.language.data.stream_batches import StreamBatches
        from kdtool.tasks.language.data.twin import met_by_all

        cfg, built = cast(options.Data, recipe.data), cast("list[Built]", list(networks))
        own = data.twin(built[0].tokens)
        if own is not None:
            split = Split(own.samples, split.rows)
        found = {each.tokens.digest: data.twin(each.tokens) for each in built[1:]} if own is None else {}
        twins = {key: twin for key, twin in found.items() if twin is not None}
        if reading.steps is not None:
            return StreamBatches(data, cfg, reading, twins)
        taught = met_by_all(split.samples, split.rows, twins) if twins else None
        lengths = split.lengths if reading.train and not cfg.packing else None
        return HeldBatches(
            split, reading, Maker(split, twins), cfg, lengths=lengths, offsets=split.offsets, taught=taught
        )

    def kinds(self, data: LanguageData, split: Split) -> Mapping[str, Tensor]:
        """Return the tokens' weights by the kind of their samples."""
        from kdtool.tasks.language.data.dataset import kinds_of

        return kinds_of(data, split)

    def objective(self, data: LanguageData, label_smoothing: float) -> NextToken:
        """Return cross-entropy of the next token, with perplexity as what epochs are selected by."""
        from kdtool.tasks.language.objective import NextToken

        return NextToken(len(data.class_names), label_smoothing, self.headline)

    def writer(self, data: LanguageData, recipe: schema.Recipe, student: task.Built) -> Writer:
        """Return what lets networks write answers."""
        from kdtool.generation.taught import is_set
        from kdtool.tasks.language.recorded.network import NobodyWrites
        from kdtool.tasks.language.written import Answers

        cfg = cast(options.Data, recipe.data)
        if any(is_set(each.model) for each in recipe.teacher):
            return NobodyWrites(cfg.on_policy, "a generated set")
        if data.twins:
            return NobodyWrites(cfg.on_policy, "a network of other tokens")
        return Answers(cfg, data.samples_of, data.tokens, recipe.train.seed)

    def versions(self, what: str) -> dict[str, str]:
        """Return the versions of transformers and tokenizers."""
        from importlib.metadata import version

        return {name: version(name) for name in ("transformers", "tokenizers")}

    def load(self, built: task.Built, folder: Path) -> None:
        """Give a network the weights that ``save`` wrote into a folder."""
        from kdtool.tasks.language.models.save import load

        load(cast("Built", built), folder)

    def save(
        self, folder: Path, built: task.Built, state: Mapping[str, Tensor], data: LanguageData, recipe: schema.Recipe
    ) -> Path:
        """Write weights, configuration and tokenizer."""
        from kdtool.tasks.language.models.save import save_student

        return save_student(folder, cast("Built", built), state)

    def how_to_open(self, built: task.Built, folder: Path) -> str:
        """Return transformers' line."""
        from kdtool.tasks.language.models.save import how_to_open

        return how_to_open(folder)

    def stages(self, built: task.Built) -> list[dict[str, Any]]:
        """Return the layers, and the head."""
        from kdtool.tasks.language.stages import stages

        return stages(cast("Built", built))

    def specimens(self) -> task.Specimens:
        """Return a few dozen chats, and the smallest network."""
        from kdtool.tasks.language import specimens

        return task.Specimens(specimens.MODELS, specimens.write)

    def model_names(self, quick: bool) -> list[str]:
        """Return the names that need no hub."""
        return list(options.CONFIGS)

    def knows(self, path: Path) -> bool:
        """Return whether a causal language model of transformers lies there."""
        from kdtool.tasks.common.targets import is_architecture

        return path.suffix == ".gguf" or is_architecture(path, "ForCausalLM", "LMHeadModel")

    def evaluate(self, target: str, data: str | None, **given: Any) -> dict[str, Any]:
        """See ``kdtool.tasks.language.evaluation.evaluate``."""
        from kdtool.tasks.language.evaluation.evaluate import evaluate

        return evaluate(target, data, **given)

    def predict(self, target: str, inputs: Sequence[str], **options: Any) -> Iterator[Prediction]:
        """Return what a network goes on with after prompts."""
        from kdtool.tasks.language.predict import predict

        return predict(target, inputs, **options)

    def export(self, target: str, to: Sequence[str] | None, **given: Any) -> dict[str, Any]:
        """Write a student as files that take token numbers."""
        from kdtool.tasks.language.export.export import export

        return export(target, to, **given)

    def profiled(self, target: str, say: task.Say, **given: Any) -> list[task.Profiled]:
        """Return a run's teachers, student and exports, or the one network that is named."""
        from kdtool.tasks.language.profiled import profiled

        self.refuse_others(given, {"length"})
        return profiled(target, say, **given)

    def answerer(self, target: str, device: str | None) -> Answerer:
        """Return a network that answers."""
        from kdtool.tasks.language.answerer import Answerer

        return Answerer(target, device)

    def sections(self, run: Path, recipe: schema.Recipe, say: task.Say) -> Any:
        """Return agreement by place, and answers side by side."""
        from kdtool.tasks.language.page import sections

        return sections(run, say)

    def sample(self, data: LanguageData) -> list[tuple[str, bool]]:
        """Return the first training sample's tokens, and which are learnt."""
        from kdtool.tasks.language.data.shown import shown

        return shown(data)
