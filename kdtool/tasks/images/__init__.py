"""Images, one class each: any timm network on either side. Importing this imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kdtool.errors import InputError
from kdtool.events import Metric
from kdtool.recipe import schema
from kdtool.recipe.options import OUTPUTS
from kdtool.tasks import task
from kdtool.tasks.images import options
from kdtool.tasks.images.options import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from kdtool.engine.job import Batches, Objective
    from kdtool.method import Method
    from kdtool.tasks.common.data_report import DataReport
    from kdtool.tasks.images.data.dataset import DataSet, Split
    from kdtool.tasks.images.models.built import Built
    from kdtool.tasks.images.networks import Adapted
    from kdtool.tasks.prediction import Prediction
    from kdtool.tasks.task import Reading, Say


class Images(task.Task):
    """Classification of images."""

    api = 1
    name = "images"
    unit = "images"
    headline = Metric("top1", "top-1")
    corrupted = "noise"
    Data = options.Data
    Teacher = options.Teacher
    Student = options.Student
    ships_layers = True
    streams = "data.name=wds/… or hfids/…"
    views: ClassVar[Mapping[str, str]] = {
        "strong": "cropped and flipped anew, changed by the policy data.strong, a box erased",
        "rotated90": "the usual view by a quarter turn",
        "rotated180": "the usual view by a half turn",
        "rotated270": "the usual view by three quarter turns",
    }

    def check(self, recipe: schema.Recipe, methods: Mapping[str, type[Method]]) -> None:
        """Refuse mixing where a method needs one class a sample, and what single keys cannot say."""
        own = cast(Recipe, recipe)
        data = own.data
        if len(data.crop_scale) != 2 or data.crop_scale[0] > data.crop_scale[1]:
            raise InputError(f"data.crop_scale={data.crop_scale}: expected two numbers, the smaller first.")
        for name, section in (("data", data), ("student", own.student), *(("teacher", each) for each in own.teacher)):
            for key in ("mean", "std"):
                value = getattr(section, key)
                if value is not None and len(value) != data.channels:
                    raise InputError(f"{name}.{key}={value}: expected {data.channels} numbers, one a channel.")
        if not data.labels:
            _refuse_without_labels(own)
        if data.targets == "multi":
            _refuse_with_several(own)
        mixing = [f"data.{key}={getattr(data, key)}" for key in ("mixup", "cutmix") if getattr(data, key)]
        for name, method in methods.items():
            if method.hard_labels and mixing:
                raise InputError(
                    f"method {name!r} needs one class a sample, so {mixing[0]} cannot be used; set it to 0."
                )

    def streamed(self, name: str) -> bool:
        """Return whether it is read shard by shard: tar files, and iterable data sets of Hugging Face."""
        return name.startswith(options.STREAMED)

    def open(self, recipe: schema.Recipe) -> DataSet:
        """Open a folder, a table of encoded images, a name of timm's or the digits."""
        from kdtool.tasks.images.data.open import open_data

        return open_data(cast(Recipe, recipe).data, stream=recipe.train.steps is not None)

    def transfer_set(self, data: DataSet, recipe: schema.Recipe) -> Split:
        """Return the student's training set: fewer classes or labels, and unlabelled images beside."""
        from kdtool.tasks.images.data.open import thin

        return thin(data.train, cast(Recipe, recipe).data, data.class_names)

    def student(self, recipe: schema.Recipe, data: DataSet) -> Built:
        """Return the student; its inputs are normalised as ``data.mean`` and ``data.std`` say, else in its own way."""
        from kdtool.tasks.images.networks import build_student, image_size

        return build_student(cast(Recipe, recipe), data.classes, image_size(cast(Recipe, recipe), data))

    def teachers(self, recipe: schema.Recipe, data: DataSet, online: bool) -> list[task.Built]:
        """Return the teachers, each at its own image size."""
        from kdtool.tasks.common.own_classes import check_teachers
        from kdtool.tasks.images.networks import build_teachers, image_size

        own = cast(Recipe, recipe)
        found = build_teachers(own, data.classes, image_size(own, data), online)
        check_teachers(found, own.teacher, data.class_names, own.data.targets)
        return list(found)

    def adapt(self, network: Any, teacher: task.Built, student: task.Built) -> Adapted:
        """Return a teacher that resizes and re-normalises the student's inputs to its own."""
        from kdtool.tasks.images.networks import adapted

        return adapted(network, cast("Built", teacher), cast("Built", student))

    def look(self, data: DataSet, recipe: schema.Recipe) -> DataReport:
        """Return classes, what was passed over, and images that cannot be read or are there twice."""
        from kdtool.tasks.images.data.look import look

        return look(data, cast(Recipe, recipe).data)

    def batches(
        self, data: DataSet, split: Split, recipe: schema.Recipe, networks: Sequence[task.Built], reading: Reading
    ) -> Batches:
        """Return a split's batches: from memory where it fits, else through workers; or those of a stream."""
        from kdtool.tasks.images.data.further import with_views
        from kdtool.tasks.images.data.loader import make_loader
        from kdtool.tasks.images.data.stream_loader import make_stream_loader

        own = cast("Built", networks[0])
        norm, resized = (own.mean, own.std), own.interpolation or "bicubic"

        def read(cfg: options.Data) -> Any:
            cfg = cfg if own.crop_pct is None else dataclasses.replace(cfg, eval_crop=own.crop_pct)
            if reading.steps is not None:
                return make_stream_loader(
                    data, cfg, own.image_size, norm, reading.batch_size, reading.seed, reading.device,
                    steps=reading.steps, channels_last=reading.channels_last, part=reading.part, interpolation=resized,
                )  # fmt: skip
            return make_loader(data, split, cfg, own.image_size, norm, reading, resized)

        found: Batches = with_views(read, cast(Recipe, recipe).data, reading.views)
        return found

    def objective(self, data: DataSet, label_smoothing: float) -> Objective:
        """Return cross-entropy, with top-1 as what epochs are selected by; without labels what measures embeddings."""
        if data.sets is not None:
            from kdtool.tasks.common.multilabel import MultiLabel

            return MultiLabel(data.sets, label_smoothing)
        if data.embeds:
            from kdtool.tasks.common.embeddings import Embeddings

            return Embeddings(bool((data.test.labels >= 0).any()))
        from kdtool.tasks.common.classification import Classification

        return Classification(len(data.class_names), label_smoothing, self.headline)

    def versions(self, what: str) -> dict[str, str]:
        """Return timm's version, and Pillow's where pixels are replayed."""
        import PIL
        import timm

        pillow = {"pillow": str(PIL.__version__)} if what == OUTPUTS else {}
        return {"timm": str(timm.__version__), **pillow}

    def save(
        self, folder: Path, built: task.Built, state: Mapping[str, Tensor], data: DataSet, recipe: schema.Recipe
    ) -> Path:
        """Write what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens."""
        from kdtool.tasks.images.models.save import save_student

        own_data = cast(Recipe, recipe).data
        crop = own_data.eval_crop
        own = cast("Built", built)
        how = own.crop_pct or crop, own.interpolation or "bicubic"
        return save_student(folder, own, state, [] if data.embeds else data.class_names, *how, own_data.targets)

    def how_to_open(self, built: task.Built, folder: Path) -> str:
        """Return timm's line, or that of a user's own architecture."""
        from kdtool.tasks.images.models.save import how_to_open

        return how_to_open(cast("Built", built), folder)

    def specimens(self) -> task.Specimens:
        """Return timm's own test networks, 0.4 million parameters each, and 50 pictures of noise."""
        from kdtool.tasks.images import specimens

        return task.Specimens(specimens.MODELS, specimens.write)

    def model_names(self, quick: bool) -> list[str]:
        """Return families' names, and all of timm's models."""
        from kdtool.tasks.images.models.names import USUAL_MEMBER, every_name

        return list(USUAL_MEMBER) if quick else every_name()

    def stages(self, built: task.Built) -> list[dict[str, Any]]:
        """Return stages with their maps' shapes and strides."""
        from kdtool.tasks.images.stages import stages

        own = cast("Built", built)
        return stages(own.tapped(), own.image_size)

    def evaluate(self, target: str, data: str | None, **given: Any) -> dict[str, Any]:
        """See ``kdtool.tasks.images.evaluation.evaluate``."""
        from kdtool.tasks.images.evaluation.evaluate import evaluate

        return evaluate(target, data, **given)

    def predict(self, target: str, inputs: Sequence[str], **given: Any) -> Iterator[Prediction]:
        """See ``kdtool.tasks.images.predict``."""
        from kdtool.tasks.images.predict import predict

        return predict(target, inputs, **given)

    def export(self, target: str, to: Sequence[str] | None, **given: Any) -> dict[str, Any]:
        """See ``kdtool.tasks.images.export.export``."""
        from kdtool.tasks.images.export.export import export

        return export(target, to, **given)

    def profiled(self, target: str, say: Say, **given: Any) -> list[task.Profiled]:
        """Return a run's teachers, student and exports, or the one network that is named."""
        from kdtool.tasks.images.profiled import profiled

        self.refuse_others(given, {"image_size"})
        return profiled(target, say, **given)

    def reading(self, recipe: schema.Recipe, rounds: int, say: Say) -> dict[str, Any] | None:
        """See ``kdtool.tasks.images.reading``."""
        from kdtool.tasks.images.reading import reading

        return reading(cast(Recipe, recipe), rounds, say)

    def sections(self, run: Path, recipe: schema.Recipe, say: Say) -> Any:
        """Return classes, calibration, soft labels and embeddings of a run."""
        from kdtool.tasks.images.page.sections import sections

        return sections(run, cast(Recipe, recipe), say)


def _refuse_with_several(recipe: Recipe) -> None:
    """Refuse what goes by one class an image."""
    data = recipe.data
    wrong = {
        "data.labels=false": not data.labels,
        "data.labels_per_class": data.labels_per_class,
        "data.exclude_classes": data.exclude_classes,
        "data.sampler=class-uniform": data.sampler == "class-uniform",
        "train.steps": recipe.train.steps,
    }
    for key, given in wrong.items():
        if given:
            raise InputError(f"{key} does not go with data.targets=multi: an image has several classes. Leave it out.")


def _refuse_without_labels(recipe: Recipe) -> None:
    """Refuse what needs labels to learn from."""
    data = recipe.data
    wrong = {
        "baseline": recipe.baseline,
        "data.mixup": data.mixup,
        "data.cutmix": data.cutmix,
        "data.labels_per_class": data.labels_per_class,
        "data.exclude_classes": data.exclude_classes,
        "data.sampler=class-uniform": data.sampler == "class-uniform",
        "cache.mode": recipe.cache.mode != "off",
        "train.steps": recipe.train.steps,
    }
    for key, given in wrong.items():
        if given:
            raise InputError(f"{key} does not go with data.labels=false: no class is learnt. Leave it out.")
