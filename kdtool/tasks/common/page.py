"""What the page shows of a classification, whatever is classified; from what ``kdtool eval`` says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.events import Metric
from kdtool.report import charts
from kdtool.report.sections import (
    Chart,
    Fact,
    Guess,
    Network,
    Opinion,
    Picture,
    RunSections,
    Sample,
    Samples,
    Section,
    Sheet,
    Shot,
    Table,
)
from kdtool.tasks.common.targets import result_of
from kdtool.tasks.task import Say
from kdtool.terminal import numbers, words

SHARE = Metric()
"""How shares in [0, 1] are shown that are not the run's own metric."""

METRICS = {
    "top1": "top-1", "top5": "top-5", "macro_recall": "macro recall", "macro_f1": "macro F1", "mcc": "MCC",
}  # fmt: skip
"""Titles of the metrics of a split."""

FEW = 12
"""Classes whose table is shown at once; a longer one is folded."""


def page_of_run(
    run: Path,
    say: Say,
    evaluate: Callable[[Path], dict[str, Any]],
    look: Callable[[], dict[str, Any]],
    *,
    unit: str,
) -> RunSections:
    """Return what a run's page shows: student, teachers and baseline measured again, and single samples.

    Args:
        run: its folder.
        say: takes sentences for the user.
        evaluate: measures a network on the run's test split.
        look: returns what networks make of some samples, see ``classification``.
        unit: what the samples are called.
    """
    say(f"{run}: measuring on the test split")
    evaluation = evaluate(run)
    alone = run / "baseline" / "student"
    baseline = evaluate(alone) if alone.is_dir() else None
    say(f"{run}: looking at test {unit} one by one")
    result = result_of(run)
    return classification(
        evaluation,
        baseline,
        look(),
        student=result["student"]["name"],
        metric=Metric.of(result),
        unit=unit,
        inputs=evaluation["data"]["inputs"],
    )


def classification(
    evaluation: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    looked: Mapping[str, Any],
    *,
    student: str,
    metric: Metric,
    unit: str,
    inputs: str = "",
) -> RunSections:
    """Return what a run's page shows of a classification.

    Args:
        evaluation: of the student: "target", "metrics", "calibration", "per_class", "confusion", "notes", and
            "teachers", each with "name", "metrics", "calibration", "per_class", "agreement", "params", "macs", "bytes".
        baseline: the same of the baseline, None without one.
        looked: at some samples: "count" (how many), "temperature" (the method's, or None), "soft_labels" (of chosen
            samples "label", "networks" and "png" or "text"), "least_certain" (of samples "picture", "format", "label",
            "predicted", "p" and "file"; may be left out), "embeddings" (by network, see ``charts.plane``; or None)
            and "notes".
        student: the model's name.
        metric: what the run's epochs were selected by.
        unit: what the samples are called.
        inputs: how they were shown to the networks.
    """
    teachers = evaluation["teachers"]
    calibrations = {"teacher": teachers[0]["calibration"]} if teachers else {}
    calibrations |= {"baseline": baseline["calibration"]} if baseline else {}
    calibrations |= {"student": evaluation["calibration"]}
    rows = class_rows(evaluation, baseline)
    cards: list[Section] = [
        Chart("Reliability", charts.reliability(calibrations, unit), f"The larger a mark, the more {unit}."),
        Chart(
            "Classes: the student's recall less that of others",
            charts.class_changes(rows),
            "To the right the student is better.",
        ),
        Chart("Confusion", charts.confusion(evaluation["confusion"], unit), "The student's; shade by share."),
        classes(rows, unit),
    ]
    if looked["soft_labels"]:
        cards.append(soft_labels(looked, unit))
    if looked.get("least_certain"):
        cards.append(sheet(looked["least_certain"], unit))
    cards += embeddings(looked["embeddings"], unit)
    return RunSections(
        cards,
        networks(evaluation, baseline, student, metric),
        _facts(evaluation),
        inputs,
        notes=list(dict.fromkeys([*evaluation["notes"], *looked["notes"]])),
        document={"evaluation": evaluation, "baseline": baseline, "samples": looked},
    )


def networks(
    evaluation: Mapping[str, Any], baseline: Mapping[str, Any] | None, student: str, metric: Metric
) -> list[Network]:
    """Return teachers, student and baseline with all that was measured of them."""
    lines = [(part, each, each["name"], each["agreement"]) for part, each in words.numbered(evaluation["teachers"])]
    lines += [("student", {**evaluation, **evaluation["target"]}, student, None)]
    lines += [("baseline", {**baseline, **baseline["target"]}, student, None)] if baseline else []
    return [
        Network(
            part,
            name,
            about["metrics"].get(metric.key),
            {
                **_further(about["metrics"], metric),
                "ECE": _share(about["calibration"]["ece"]),
                "student agrees": _share(agrees),
            },
            about["params"],
            about["macs"],
            about["bytes"],
        )
        for part, about, name, agrees in lines
    ]


def _further(metrics: Mapping[str, Any], metric: Metric) -> dict[str, str]:
    """Return the metrics beside the run's own by their titles; a correlation is no share."""
    return {
        title: f"{metrics[key]:.4f}" if key == "mcc" else _share(metrics.get(key))
        for key, title in METRICS.items()
        if key != metric.key and (key != "mcc" or key in metrics)
    }


def class_rows(
    evaluation: Mapping[str, Any], baseline: Mapping[str, Any] | None, key: str = "recall"
) -> list[dict[str, Any]]:
    """Return each class's support and recall (or another figure, ``key``) by network; None where there is none."""
    teachers = evaluation["teachers"]
    alone = {row["class"]: row[key] for row in baseline["per_class"]} if baseline else {}
    taught = {row["class"]: row[key] for row in teachers[0]["per_class"]} if teachers else {}
    return [
        {
            "class": row["class"],
            "support": row["support"],
            "teacher": taught.get(row["class"]),
            "student": row[key],
            "baseline": alone.get(row["class"]),
        }
        for row in evaluation["per_class"]
    ]


def classes(rows: Sequence[Mapping[str, Any]], unit: str, what: str = "recall") -> Table:
    """Return the table behind the chart of classes; ``what`` names the figure."""
    parts = [part for part in ("teacher", "student", "baseline") if any(row[part] is not None for row in rows)]
    return Table(
        "Classes",
        ["class", unit, *(f"{part}'s {what}" for part in parts)],
        [[row["class"], str(row["support"]), *(_share(row[part]) for part in parts)] for row in rows],
        numbers=1,
        folded=len(rows) > FEW,
    )


def soft_labels(looked: Mapping[str, Any], unit: str) -> Samples:
    """Return some samples with the likeliest classes of each network."""
    found, t = looked["soft_labels"], looked["temperature"]
    at = f"at T = 1 and at the method's T = {t:g}" if t and t != 1 else "at T = 1"
    half = len(found) // 2
    chosen = f"of {looked['count']}, the {half} with the least certain soft labels and {len(found) - half} others"
    return Samples("Soft labels", [_sample(each, unit) for each in found], f"Top classes {at}; {chosen}.")


def sheet(found: Sequence[Mapping[str, Any]], unit: str) -> Sheet:
    """Return pictures of the samples that the student is least certain of."""
    shots = [
        Shot(
            Picture(each["picture"], f"a test {numbers.one(unit)} of {each['label']}", each["format"]),
            each["label"],
            Guess(each["predicted"], each["p"]),
            each["file"] or "",
        )
        for each in found
    ]
    wrong = sum(not shot.right for shot in shots)
    about = (
        f"What the student takes them for, with its probability, and what they are; {wrong} of {len(shots)} are wrong."
    )
    return Sheet(f"The test {unit} that the student is least certain of", shots, about)


def embeddings(planes: Mapping[str, Mapping[str, Any] | None], unit: str) -> list[Chart]:
    """Return a chart of each network's embeddings."""
    about = f"t-SNE of test {unit}. Crosses are predicted wrongly; distances between clusters mean little."
    return [
        Chart(f"Embedding of the {part}", charts.plane(plane) if plane else None, about)
        for part, plane in planes.items()
    ]


def _facts(evaluation: Mapping[str, Any]) -> list[Fact]:
    teachers = evaluation["teachers"]
    agrees = [("agrees with the teacher", _share(teachers[0]["agreement"]))] if teachers else []
    return [*agrees, ("calibration error", _share(evaluation["calibration"]["ece"]))]


def _sample(found: Mapping[str, Any], unit: str) -> Sample:
    picture = Picture(found["png"], f"a test {numbers.one(unit)} of {found['label']}") if "png" in found else None
    opinions = [
        Opinion(
            each["part"],
            f"{each['part']}, T = {each['temperature']:g}",
            [Guess(row["class"], row["p"]) for row in each["top"]],
        )
        for each in found["networks"]
    ]
    return Sample(found["label"], picture, found.get("text", ""), opinions)


def _share(found: float | None) -> str:
    return numbers.value(SHARE, found)
