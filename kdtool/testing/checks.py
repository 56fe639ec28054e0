"""The lists of checks: what a method and a task promise the engine, and which promises concern whom."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from kdtool.method import Method
from kdtool.testing import equality, promises, shipping, task_runs, task_samples, training


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what ``expected_failures`` calls it.
        promise: what it makes sure of.
        run: given a bench, raises where the promise is broken.
        slow: it takes minutes, and is left out unless asked for.
        unless: given the class, returns why it need not be checked, or None.
    """

    name: str
    promise: str
    run: Callable[[Any], None]
    slow: bool = False
    unless: Callable[[Any], str | None] = lambda cls: None


# --- which checks concern whom ----------------------------------------------------------------------------------


def _no_frozen_teacher(cls: type[Method]) -> str | None:
    kind = cls.scheme()
    return None if kind == "offline" else f"a method of the kind {kind!r} has no frozen teacher"


def _no_teacher(cls: type[Method]) -> str | None:
    return "it has no teacher" if cls.teachers[1] == 0 else None


def _one_teacher(cls: type[Method]) -> str | None:
    most = cls.teachers[1]
    return f"it takes {most} teacher(s)" if most is not None and most < 2 else None


def _one_class_a_sample(cls: type[Method]) -> str | None:
    return "it declares hard_labels, so mixing is refused" if cls.hard_labels else None


def _one_process(cls: type[Method]) -> str | None:
    if not dist.is_available() or not dist.is_gloo_available():
        return "this torch has no gloo"
    try:
        pickle.dumps(cls)
    except Exception:
        return "another process cannot import the class: define it at the top of a module"
    return None


CHECKS: tuple[Check, ...] = (
    Check("contract", "the class fits the contract", promises.fits_the_contract),
    Check("options", "every option has help", promises.options_are_documented),
    Check("defaults", "the defaults are valid and construct", promises.defaults_construct),
    Check("taps", "taps resolve on every kind of network", promises.taps_resolve),
    Check("fp32", "terms and gradients are finite in fp32", lambda bench: promises.terms_are_finite(bench, "fp32")),
    Check(
        "bf16",
        "terms and gradients are finite under bf16 autocast",
        lambda bench: promises.terms_are_finite(bench, "bf16"),
    ),
    Check("fp64", "fp64 stays fp64", promises.double_precision_stays),
    Check("several-teachers", "two teachers at once work", promises.several_teachers_are_taken, unless=_one_teacher),
    Check(
        "equal-networks", "a student equal to its teacher works", promises.equal_networks_are_taken, unless=_no_teacher
    ),
    Check("missing-labels", "samples without a label work", promises.missing_labels_are_taken),
    Check("mixed-labels", "mixed labels (B, K) work", promises.mixed_labels_are_taken, unless=_one_class_a_sample),
    Check(
        "frozen-teacher", "the frozen teacher is untouched", training.teachers_stay_untouched, unless=_no_frozen_teacher
    ),
    Check("training", "each stage trains what it says", training.stages_train_what_they_say),
    Check("state", "saved state restores the loss", training.state_round_trips),
    Check("replay", "stored teacher outputs equal live ones", training.replayed_equals_live, unless=_no_frozen_teacher),
    Check("ships", "what ships opens as it was trained", shipping.what_ships_opens),
    Check(
        "compiled",
        "compiled (aot_eager) equals eager",
        lambda bench: equality.compiled_equals_eager(bench, "aot_eager", bench.pairs[:1]),
    ),
    Check(
        "processes",
        "two processes equal one",
        lambda bench: equality.two_processes_equal_one(bench, bench.pairs[:1]),
        unless=_one_process,
    ),
    Check(
        "inductor",
        "compiled (inductor) equals eager",
        # Every network on both sides, and pairs that need aligning; all would take twice as long.
        lambda bench: equality.compiled_equals_eager(
            bench, "inductor", [p for p in bench.pairs if p[0] != p[1]] or bench.pairs
        ),
        slow=True,
    ),
    Check(
        "processes-pairs",
        "two processes equal one on all pairs",
        lambda bench: equality.two_processes_equal_one(bench, bench.pairs),
        slow=True,
        unless=_one_process,
    ),
)
"""Every check of a method, quick ones first."""

TASK_CHECKS: tuple[Check, ...] = (
    Check("contract", "the class fits the contract and every option has help", task_samples.fits_the_contract),
    Check("fingerprint", "the fingerprint follows the data", task_samples.fingerprint_follows_the_data),
    Check("batches", "batches are whole, and evaluation reads all", task_samples.batches_are_whole),
    Check("workers", "workers and memory change no batch", task_samples.workers_change_nothing),
    Check("processes", "two processes share the batches of one", task_samples.processes_share_batches),
    Check("epochs", "an epoch is a function of its number, entered anywhere", task_samples.epochs_can_be_entered),
    Check(
        "views",
        "further views are functions of the sample",
        task_samples.further_views_follow_from_the_sample,
        unless=lambda cls: None if cls.views else "it has no further views",
    ),
    Check("company", "a sample does not see its batch", task_samples.rows_do_not_see_their_batch),
    Check("split", "a batch splits into its samples", task_samples.batches_split_into_samples),
    Check("adapt", "every teacher takes every student's batches", task_samples.teachers_take_the_students_batches),
    Check("meter", "meters of several processes make one", task_samples.meter_merges),
    Check("missing-labels", "rows without a label teach nothing", task_samples.labels_may_be_missing),
    Check("state", "saved weights come back, in equal bytes", task_runs.state_round_trips),
    Check("open", "what is saved opens without kdtool", task_runs.opens_without_kdtool),
    Check(
        "layers",
        "a student with other layers opens as well",
        shipping.replaced_layers_open,
        unless=lambda cls: None if cls.ships_layers else "it says that its students ship as they are",
    ),
    Check("resume", "a stopped run resumes to equal bytes", task_runs.runs_resume),
    Check("replay", "a replayed teacher gives equal bytes", task_runs.runs_replay_their_teacher),
)
"""Every check of a task."""
