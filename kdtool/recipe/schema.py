"""The recipe's sections: every key with its type, default, range and help.

Reading, merging and validating live in ``kdtool.recipe``. Nothing here imports torch, so a bad recipe is refused at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from kdtool.recipe.options import option

# typing.Optional rather than "X | None": OmegaConf reads these annotations at run time on Python 3.10 too.


@dataclass
class Optim:
    name: str = option("adamw", "optimizer, by its name in timm.optim (adamw, sgd, lamb, ...)")
    lr: Optional[float] = option(
        None,
        "peak learning rate; default: 0.0003 for trained weights, else 0.003 for a student and 0.001 for a teacher",
        min=0.0,
    )
    weight_decay: float = option(0.05, "weight decay; not applied to biases and norms", min=0.0)
    decay_norm_and_bias: bool = option(False, "apply weight decay to biases and norms too, as the older papers do")
    momentum: float = option(0.9, "momentum (or Adam's beta1)", min=0.0, max=1.0)
    options: dict[str, Any] = option(dict, "further arguments of the optimizer, by name")


@dataclass
class Schedule:
    name: str = option(
        "cosine", "learning-rate schedule", choices=("cosine", "multistep", "step", "linear", "constant")
    )
    warmup_epochs: float = option(1.0, "epochs of linear warm-up from warmup_lr; at most a third of a stage", min=0.0)
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up", min=0.0)
    min_lr: float = option(1e-6, "learning rate at the end (cosine, linear)", min=0.0)
    milestones: list[int] = option([], "epochs at which multistep multiplies the rate by decay_rate", min=1)
    step_epochs: float = option(30.0, "epochs between the drops of step", min=0.01)
    decay_rate: float = option(0.1, "factor of multistep's and step's drops", min=0.0, max=1.0)


@dataclass
class TeacherTrain:
    """How a teacher whose head does not fit, or that starts from scratch, is trained before distilling."""

    epochs: int = option(8, "epochs of teacher training", min=1)
    batch_size: int = option(64, "samples in a batch", min=1)
    seed: int = option(0, "seed of its first weights, order and dropout", min=0)
    label_smoothing: float = option(0.0, "label smoothing", min=0.0, max=0.99)
    clip_grad: Optional[float] = option(None, "largest gradient norm; none: no clipping", min=0.0)
    ema: float = option(0.0, "decay of the weight average; 0 turns it off", min=0.0, max=0.99999)
    optim: Optim = option(Optim, "the optimizer")
    schedule: Schedule = option(Schedule, "the learning-rate schedule")


@dataclass
class Teacher:
    model: str = option("resnet50", "timm name or family, hf-hub:, local-dir:, or path/to/file.py:function")
    weights: str = option("auto", "auto, pretrained, scratch, or a .safetensors/.pth/.th/.pt file")
    image_size: Optional[int] = option(
        None, "its input size in pixels; default: the data's, or what it was trained at", min=1
    )
    model_args: dict[str, Any] = option(dict, "further arguments of the model's constructor")
    precision: str = option("same", "arithmetic of its forward while it teaches; same: train.precision",
                            choices=("same", "fp32", "bf16", "fp16", "fp64"))  # fmt: skip
    check: str = option("error", "what to do with a teacher at chance level", choices=("error", "warn", "off"))
    train: TeacherTrain = option(TeacherTrain, "its training on the data, where that is needed")


@dataclass
class Student:
    model: str = option("mobilenetv3", "timm name or family, hf-hub:, local-dir:, or path/to/file.py:function")
    weights: str = option("auto", "auto, pretrained, scratch, or a .safetensors/.pth/.th/.pt file")
    model_args: dict[str, Any] = option(dict, "further arguments of the model's constructor")


@dataclass
class Data:
    name: str = option("digits", "digits, a folder of images or parquet files, or a name of timm.data.create_dataset")
    root: Optional[str] = option(None, "folder where timm's data sets (torch/..., hfds/..., wds/...) live")
    download: bool = option(False, "let timm download the data set")
    train_split: str = option("train", "name of the training split")
    test_split: str = option("auto", "name of the test split; auto: test, else val or validation")
    test_fraction: float = option(0.2, "share of a data set without a test split that becomes one", min=0.01, max=0.9)
    image_size: Optional[int] = option(
        None, "pixels a side; default: 32 for images up to 32 pixels, native up to 64, else 224", min=1
    )
    val_fraction: float = option(
        0.1, "share of train held out to pick the best epoch; 0: the last epoch is the result", min=0.0, max=0.9
    )
    watch_test: bool = option(
        False, "hold nothing out and validate on the test split, to see every epoch of it; needs train.select=last"
    )
    split_seed: int = option(0, "decides which samples are held out or kept by labels_per_class", min=0)
    labels_per_class: Optional[int] = option(None, "keep so many of each class in the student's training set", min=1)
    exclude_classes: list[str] = option([], "classes (names or numbers) left out of the student's training set")
    unlabelled: Optional[str] = option(None, "folder of extra images that join distillation without a hard label")
    sampler: str = option(
        "random",
        "order of the student's samples; class-uniform: each batch a few classes",
        choices=("random", "class-uniform"),
    )
    samples_per_class: int = option(4, "samples of a class in a batch, for sampler=class-uniform", min=1)
    views: Optional[int] = option(None, "K: epoch e uses view e mod K; none: a new view every epoch", min=1)
    view_seed: int = option(0, "decides each sample's crops, flips and mixing partners", min=0)
    crop: str = option("auto", "pad: shift a padded image; resized: random resized crop; none; auto: by size",
                       choices=("auto", "pad", "resized", "none"))  # fmt: skip
    crop_padding: Optional[int] = option(None, "pixels of padding for crop=pad; default: an eighth of the size", min=0)
    crop_scale: list[float] = option([0.25, 1.0], "range of area of crop=resized", min=0.01, max=1.0)
    flip: Optional[float] = option(
        None, "probability of a horizontal flip; default: 0.5 for colour, 0 for grey", min=0.0, max=1.0
    )
    color_jitter: float = option(0.0, "strength of brightness, contrast and saturation changes", min=0.0, max=1.0)
    auto_augment: Optional[str] = option(None, "timm's augmentation policy, such as rand-m9-mstd0.5")
    erase: float = option(0.0, "probability of erasing a random box", min=0.0, max=1.0)
    mixup: float = option(0.0, "alpha of mixup's Beta distribution; 0: off", min=0.0)
    cutmix: float = option(0.0, "alpha of cutmix's Beta distribution; 0: off", min=0.0)
    eval_crop: float = option(1.0, "share of the resized image that evaluation's centre crop keeps", min=0.1, max=1.0)
    mean: Optional[list[float]] = option(
        None, "channel means for normalising; default: the student model's", min=0.0, max=1.0
    )
    std: Optional[list[float]] = option(
        None, "channel deviations for normalising; default: the student model's", min=0.001, max=1.0
    )
    max_bad: float = option(
        0.01,
        "share of a split's images that may be unreadable; each is replaced by the next of its class and listed in "
        "bad-images.jsonl",
        min=0.0,
        max=1.0,
    )
    follow_links: bool = option(False, "follow symbolic links that lead out of the data's folder, and links to folders")
    workers: int = option(0, "processes that decode images (in-memory data needs none)", min=0, max=256)
    memory_budget_gb: float = option(
        4.0, "small data sets up to this size are decoded once and kept in memory", min=0.0
    )


@dataclass
class Train:
    epochs: int = option(30, "epochs of the student, all stages that train it together", min=1)
    steps: Optional[int] = option(
        None,
        "student steps on a training set that is streamed from its shards (wds/..., hfids/...), in as many parts as "
        "train.epochs says; none: the data is held, or read by number",
        min=1,
    )
    batch_size: int = option(64, "samples in a global batch", min=1)
    seed: int = option(0, "seed of the student's first weights, the order of samples and dropout", min=0)
    device: str = option("auto", "auto (CUDA, then MPS, then CPU), cpu, mps, cuda or cuda:N")
    precision: str = option("fp32", "arithmetic of forward and backward", choices=("fp32", "bf16", "fp16", "fp64"))
    channels_last: bool = option(True, "keep images and convolutions in channels-last layout")
    task_weight: Optional[float] = option(
        None, "weight of the hard-label loss in the last stage; default: the method's", min=0.0
    )
    label_smoothing: float = option(0.0, "label smoothing of the hard-label loss", min=0.0, max=0.99)
    compile: str = option("off", "torch.compile of student and loss; reduce-overhead uses CUDA graphs",
                          choices=("off", "default", "reduce-overhead", "max-autotune"))  # fmt: skip
    freeze_bn: bool = option(False, "the student's batch norms keep the statistics that its weights came with")
    tf32: bool = option(True, "let CUDA multiply fp32 matrices in TF32")
    clip_grad: Optional[float] = option(None, "largest gradient norm; none: no clipping", min=0.0)
    accumulate: int = option(1, "micro-batches that a batch is split into", min=1)
    auto_batch: bool = option(False, "where the device has no memory for a batch, split it further and go on")
    on_nonfinite: str = option(
        "stop", "what to do at a step whose loss or gradient is not finite", choices=("stop", "skip")
    )
    max_skipped: int = option(10, "steps that on_nonfinite=skip may leave out before the run stops", min=0)
    ema: float = option(0.0, "decay of the student's weight average; 0 turns it off", min=0.0, max=0.99999)
    log_every: int = option(20, "steps between two readings of the loss", min=1)
    select: str = option("best", "which epoch becomes the student: best on the validation split, or last",
                         choices=("best", "last"))  # fmt: skip


@dataclass
class Parallel:
    sync_bn: bool = option(False, "batch norms of the student see the global batch of all processes")


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
    dtype: str = option("fp16", "numbers in the files", choices=("fp16", "fp32"))
    top_k: Optional[int] = option(
        None, "keep so many of a sample's largest logits; the others share the remaining mass; none: all", min=1
    )
    shard_rows: int = option(8192, "samples in a file", min=1)
    jobs: int = option(1, "processes that compute", min=1, max=256)


@dataclass
class Track:
    """Who is told of the run beside metrics.jsonl; each needs the extra of its name."""

    to: list[str] = option([], "tensorboard, wandb, mlflow", choices=("tensorboard", "wandb", "mlflow"))
    project: str = option("kdtool", "what wandb and mlflow file the run under")


@dataclass
class Recipe:
    """A whole run. ``options`` holds the sections named after methods, each of its method's ``Config`` type."""

    method: str = option("", "a method's name, names joined by +, or none (hard labels only); empty: the default one")
    baseline: bool = option(False, "also train the student alone, on the same budget and seed")
    out: Optional[str] = option(None, "the run's folder; default: runs/<teacher>-<student>-<method>-<n>")
    teacher: list[Teacher] = option([], "one section, or a list of them")
    assistants: list[str] = option([], "models between teacher and student, each distilled from the one before")
    generations: int = option(1, "how many students in a row, each but the first taught by the one before", min=1)
    student: Student = option(Student, "the network that is trained and shipped")
    data: Data = option(Data, "images, labels, splits and augmentation")
    train: Train = option(Train, "the run itself")
    optim: Optim = option(Optim, "the optimizer of the student and the method's own parts")
    schedule: Schedule = option(Schedule, "the learning-rate schedule")
    parallel: Parallel = option(Parallel, "several processes")
    checkpoint: Checkpoint = option(Checkpoint, "what is saved while training")
    cache: Cache = option(Cache, "teachers' outputs, kept for later runs")
    track: Track = option(Track, "who is told of the run beside metrics.jsonl")
    options: dict[str, Any] = option(dict, "each method's options, under the method's name")


RESERVED = ("eval", "export", "compare")
"""Section names kept for later; like the sections above, no method may be called so."""
