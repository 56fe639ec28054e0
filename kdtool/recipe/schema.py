"""The recipe's sections: every key with its type, default, range and help.

Reading, merging and validating live in ``kdtool.recipe``. Nothing here imports torch, so a bad recipe is refused at
once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Optional, Protocol

from kdtool.recipe.options import OUTPUTS, STUDENT, TEACHER, option
from kdtool.recipe.rates import Optim, Schedule

EVERYTHING = (TEACHER, OUTPUTS, STUDENT)

# typing.Optional rather than "X | None": OmegaConf reads these annotations at run time on Python 3.10 too.


@dataclass
class TeacherTrain:
    """How a teacher whose head does not fit, or that starts from scratch, is trained before distilling."""

    epochs: Optional[int] = option(
        None, "epochs of teacher training; default: 8, or what its task has for one from scratch", min=1
    )
    batch_size: int = option(64, "samples in a batch", min=1)
    seed: int = option(0, "seed of its first weights, order and dropout", min=0)
    label_smoothing: float = option(0.0, "label smoothing", min=0.0, max=0.99)
    clip_grad: Optional[float] = option(None, "largest gradient norm; none: no clipping", min=0.0)
    ema: float = option(0.0, "decay of the weight average; 0 turns it off", min=0.0, max=0.99999)
    optim: Optim = option(Optim, "the optimizer")
    schedule: Schedule = option(Schedule, "the learning-rate schedule")

    @property
    def length(self) -> int:
        """The epochs, once the networks have settled what was left open (``kdtool.runs.networks.with_rates``)."""
        assert self.epochs is not None
        return self.epochs


@dataclass
class Teacher:
    """What every task's section ``teacher`` has; a task adds its own keys.

    Class attributes:
        scratch_epochs: of the training of a teacher from scratch, where the recipe does not say.
        fine_tune_lr: peak learning rate where trained weights are trained further and the recipe does not say.
    """

    scratch_epochs: ClassVar[int] = 8
    fine_tune_lr: ClassVar[float] = 3e-4

    model: str = option("", "a model's name, or path/to/file.py:function")
    weights: str = option("auto", "auto, pretrained, scratch, or a .safetensors/.pth/.th/.pt file")
    weights_key: Optional[str] = option(
        None,
        "which of a file's weights: state_dict, state_dict_ema, ...; default: the averaged ones, else the only ones",
        late=True,
    )
    new_head: bool = option(
        False, "keep of the weights all but the last layer, which is new and trained on the data", late=True
    )
    model_args: dict[str, Any] = option(dict, "further arguments of the model's constructor")
    precision: str = option(
        "same",
        "arithmetic of its forward while it teaches; same: train.precision; int8: fp32 with the weights of linear "
        "layers in 8 bits (torchao)",
        choices=("same", "fp32", "bf16", "fp16", "fp64", "int8"),
    )
    check: str = option("error", "what to do with a teacher at chance level", choices=("error", "warn", "off"))
    train: TeacherTrain = option(
        TeacherTrain, "its training on the data, where that is needed", decides=(TEACHER, STUDENT)
    )


@dataclass
class Student:
    """What every task's section ``student`` has; a task adds its own keys.

    Class attributes:
        fine_tune_lr: as a teacher's.
    """

    fine_tune_lr: ClassVar[float] = 3e-4

    model: str = option("", "a model's name, or path/to/file.py:function")
    weights: str = option("auto", "auto, pretrained, scratch, or a .safetensors/.pth/.th/.pt file")
    weights_key: Optional[str] = option(
        None,
        "which of a file's weights: state_dict, state_dict_ema, ...; default: the averaged ones, else the only ones",
        late=True,
    )
    new_head: bool = option(
        False, "keep of the weights all but the last layer, which is new and trained on the data", late=True
    )
    model_args: dict[str, Any] = option(dict, "further arguments of the model's constructor")


@dataclass
class Data:
    """What every task's section ``data`` has; a task adds its own keys."""

    name: str = option("", "a built-in data set, a file or folder, or a name that the task knows", decides=(STUDENT,))
    root: Optional[str] = option(None, "folder where data sets that are given by name live")
    download: bool = option(False, "let the data set be downloaded", decides=())
    train_split: str = option("train", "name of the training split", decides=(TEACHER, STUDENT))
    test_split: str = option(
        "auto", "name of the test split; auto: test, else val or validation", decides=(TEACHER, STUDENT)
    )
    test_fraction: float = option(
        0.2,
        "share of a data set without a test split that becomes one",
        min=0.01,
        max=0.9,
        decides=(TEACHER, STUDENT),
    )
    val_fraction: float = option(
        0.1,
        "share of train held out to pick the best epoch; 0: the last epoch is the result",
        min=0.0,
        max=0.9,
        decides=(TEACHER, STUDENT),
    )
    watch_test: bool = option(
        False, "hold nothing out and validate on the test split, to see every epoch of it; needs train.select=last"
    )
    split_seed: int = option(
        0, "decides which samples are held out or kept by labels_per_class", min=0, decides=(TEACHER, STUDENT)
    )
    labels_per_class: Optional[int] = option(
        None, "keep so many of each class in the student's training set", min=1, decides=(OUTPUTS, STUDENT)
    )
    exclude_classes: list[str] = option(
        [], "classes (names or numbers) left out of the student's training set", decides=(OUTPUTS, STUDENT)
    )
    unlabelled: Optional[str] = option(None, "extra samples that join distillation without a hard label")
    sampler: str = option(
        "random",
        "order of the student's samples; class-uniform: each batch a few classes; balanced: every class equally often",
        choices=("random", "class-uniform", "balanced"),
    )
    samples_per_class: int = option(4, "samples of a class in a batch, for sampler=class-uniform", min=1)
    views: Optional[int] = option(None, "K: epoch e uses view e mod K; none: a new view every epoch", min=1)
    view_seed: int = option(0, "decides what is random about each sample's views", min=0, decides=EVERYTHING)
    max_bad: float = option(
        0.01,
        "share of a split's samples that may be unreadable; each is replaced and listed in the run's folder",
        min=0.0,
        max=1.0,
        decides=(),
    )
    follow_links: bool = option(False, "follow symbolic links that lead out of the data's folder, and links to folders")
    workers: int = option(0, "processes that read samples (in-memory data needs none)", min=0, max=256, decides=())
    memory_budget_gb: float = option(
        4.0, "small data sets up to this size are read once and kept in memory", min=0.0, decides=()
    )


@dataclass
class Train:
    epochs: int = option(30, "epochs of the student, all stages that train it together", min=1)
    steps: Optional[int] = option(
        None,
        "student steps on a training set that is streamed from its shards (data.name says which can be), in as many "
        "parts as train.epochs says; none: the data is held, or read by number",
        min=1,
    )
    batch_size: int = option(64, "samples in a global batch", min=1)
    seed: int = option(0, "seed of the student's first weights, the order of samples and dropout", min=0)
    device: str = option("auto", "auto (CUDA, then MPS, then CPU), cpu, mps, cuda or cuda:N")
    precision: str = option(
        "fp32", "arithmetic of forward and backward", choices=("fp32", "bf16", "fp16", "fp64"), decides=EVERYTHING
    )
    channels_last: bool = option(
        True, "keep images and convolutions in channels-last layout, which decides the kernels", decides=EVERYTHING
    )
    task_weight: Optional[float] = option(
        None, "weight of the hard-label loss in the last stage; default: the method's", min=0.0
    )
    label_smoothing: float = option(0.0, "label smoothing of the hard-label loss", min=0.0, max=0.99)
    compile: str = option("off", "torch.compile of student and loss; reduce-overhead uses CUDA graphs",
                          choices=("off", "default", "reduce-overhead", "max-autotune"))  # fmt: skip
    graph: str = option(
        "off",
        "auto: on CUDA, record a whole step as one graph and replay it; says why where it cannot. Not measured on a "
        "card yet, hence off",
        choices=("off", "auto"),
        late=True,
    )
    freeze_bn: bool = option(False, "the student's batch norms keep the statistics that its weights came with")
    tf32: bool = option(True, "let CUDA multiply fp32 matrices in TF32", decides=(OUTPUTS, STUDENT))
    deterministic: bool = option(
        False, "let CUDA use only kernels that give equal bits each time, which may be slower", late=True
    )
    checkpoint_activations: bool = option(
        False,
        "keep of each of the student's blocks its input alone, and compute the rest again in the backward pass",
        decides=(),
        late=True,
    )
    clip_grad: Optional[float] = option(None, "largest gradient norm; none: no clipping", min=0.0)
    accumulate: int = option(1, "micro-batches that a batch is split into", min=1)
    auto_batch: bool = option(
        False, "where the device has no memory for a batch, split it further and go on", decides=()
    )
    on_nonfinite: str = option(
        "stop", "what to do at a step whose loss or gradient is not finite", choices=("stop", "skip"), decides=()
    )
    max_skipped: int = option(10, "steps that on_nonfinite=skip may leave out before the run stops", min=0, decides=())
    patience: Optional[int] = option(
        None,
        "epochs of the last stage without a better one on the validation split before it ends; none: it runs through",
        min=1,
        late=True,
    )
    time_limit: Optional[str] = option(
        None,
        "how long all trainings may take together (2h, 90m, 45s): epochs that do not fit are cut before the run starts "
        "(and what its schedule counts in epochs with them); none: all are run",
        late=True,
    )
    class_weights: str = option(
        "none", "weights of the hard-label loss; balanced: rare classes count as much as frequent ones",
        choices=("none", "balanced"), late=True,
    )  # fmt: skip
    ema: float = option(0.0, "decay of the student's weight average; 0 turns it off", min=0.0, max=0.99999)
    log_every: int = option(20, "steps between two readings of the loss", min=1, decides=())
    select: str = option("best", "which epoch becomes the student: best on the validation split, or last",
                         choices=("best", "last"))  # fmt: skip


@dataclass
class Parallel:
    sync_bn: bool = option(False, "batch norms of the student see the global batch of all processes")
    shard: str = option(
        "none",
        "fsdp: the processes divide the weights of the student and of frozen teachers, where these do not fit one "
        "device; none: each has them whole",
        choices=("none", "fsdp"),
        decides=(),
        late=True,
    )


@dataclass
class Eval:
    batch_size: Optional[int] = option(
        None,
        "samples in a batch that is only looked at; none: those of train.batch_size, and on an accelerator 1,000 where "
        "inputs are small images",
        min=1,
    )


@dataclass
class Checkpoint:
    every_epochs: int = option(1, "epochs between checkpoints", min=1)
    every_steps: Optional[int] = option(None, "steps between checkpoints within an epoch; none: none within", min=1)
    keep: int = option(2, "how many of the newest checkpoints are kept", min=1)


@dataclass
class Cache:
    """Kept teachers' outputs: for data.views views of every training sample, replayed instead of computed."""

    mode: str = option(
        "off",
        "off; build: compute what is not kept yet, then replay; use: replay where all that is needed is kept, else run "
        "the teacher; require: refuse to run without",
        choices=("off", "build", "use", "require"),
    )
    dtype: str = option("fp16", "numbers in the files", choices=("fp16", "fp32"), decides=(OUTPUTS, STUDENT))
    top_k: Optional[int] = option(
        None,
        "keep so many of a sample's largest logits, and the others' mass; none: all",
        min=1,
        decides=(OUTPUTS, STUDENT),
    )
    rest: str = option(
        "student",
        "with top_k, the other classes' mass is shared as the student shares its own, so that a loss sees them as one "
        "class (student; evenly for a teacher of other classes), evenly (even), or is left out and the kept ones sum "
        "to 1 (none)",
        choices=("student", "even", "none"),
        decides=(STUDENT,),
        late=True,
    )
    hot_top_k: bool = option(
        False, "allow top_k with a temperature above 2, at which the others' mass is not known", decides=()
    )
    shard_rows: int = option(8192, "samples in a file", min=1)
    jobs: int = option(1, "processes that compute", min=1, max=256, decides=())


@dataclass
class Track:
    """Who is told of the run beside metrics.jsonl; each needs the extra of its name."""

    to: list[str] = option([], "tensorboard, wandb, mlflow", choices=("tensorboard", "wandb", "mlflow"))
    project: str = option("kdtool", "what wandb and mlflow file the run under")


@dataclass
class Recipe:
    """A whole run. ``options`` holds the sections named after methods, each of its method's ``Config`` type.

    ``teacher``, ``student`` and ``data`` are of the task's own types, see ``recipe_type``.
    """

    task: str = option("", "what is learnt: images, or another installed task; empty: the default one", late=True)
    method: str = option("", "a method's name, names joined by +, or none (hard labels only); empty: the default one")
    baseline: bool = option(False, "also train the student alone, on the same budget and seed")
    out: Optional[str] = option(None, "the run's folder; default: runs/<teacher>-<student>-<method>-<n>", decides=())
    teacher: list[Teacher] = option([], "one section, or a list of them")
    assistants: list[str] = option([], "models between teacher and student, each distilled from the one before")
    generations: int = option(1, "how many students in a row, each but the first taught by the one before", min=1)
    student: Student = option(Student, "the network that is trained and shipped")
    data: Data = option(Data, "samples, labels, splits and augmentation")
    train: Train = option(Train, "the run itself")
    optim: Optim = option(Optim, "the optimizer of the student and the method's own parts")
    schedule: Schedule = option(Schedule, "the learning-rate schedule")
    parallel: Parallel = option(Parallel, "several processes")
    eval: Eval = option(Eval, "looking at validation and test splits", decides=())
    checkpoint: Checkpoint = option(Checkpoint, "what is saved while training", decides=())
    cache: Cache = option(Cache, "teachers' outputs, kept for later runs")
    track: Track = option(Track, "who is told of the run beside metrics.jsonl", decides=())
    options: dict[str, Any] = option(dict, "each method's options, under the method's name", decides=())


class Sections(Protocol):
    """What a task says of a recipe: the types of the sections that are its own."""

    Teacher: type[Teacher]
    Student: type[Student]
    Data: type[Data]


@lru_cache
def recipe_type(sections: Sections, default_task: str) -> type[Recipe]:
    """Return the recipe of a task.

    Args:
        sections: the task.
        default_task: the name that stands for no ``task`` at all.
    """
    helps = {field.name: field.metadata for field in dataclasses.fields(Recipe)}

    def own(name: str, kind: Any, default: Any) -> tuple[str, Any, Any]:
        meta = helps[name]
        return name, kind, option(default, meta["help"], decides=meta["decides"], late=meta["late"])

    fields = [
        own("task", str, default_task),
        own("teacher", list[sections.Teacher], []),  # type: ignore[name-defined]
        own("student", sections.Student, sections.Student),
        own("data", sections.Data, sections.Data),
    ]
    made: type[Recipe] = dataclasses.make_dataclass("Recipe", fields, bases=(Recipe,))
    made.__module__ = __name__
    return made


RESERVED = ("export", "compare")
"""Section names kept for later; like the sections above, no method may be called so."""
