"""``kdtool eval`` on texts finds again what runs found, tells classes by name, and damages texts alike every time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.tasks.text.evaluation.corruptions import STRENGTHS, Corruption
from tests.running import Done, call
from tests.tasks.text.runs import CLASSES, distil, evaluated, sentences

SENTENCE = "The quick brown fox jumps over the lazy dog while seven wizards look on from their high towers"


def test_a_run_is_found_again(text_run: Done) -> None:
    found = evaluated(text_run.folder)
    correlation = found["metrics"].pop("mcc")
    assert found["metrics"] == text_run.result["test"]["student"]
    assert -1 <= correlation <= 1
    (teacher,) = found["teachers"]
    assert teacher["metrics"].pop("mcc") <= 1
    assert teacher["metrics"] == text_run.result["test"]["teacher"]
    assert 0 <= teacher["agreement"] <= 1
    assert [row["class"] for row in found["per_class"]] == sorted(CLASSES)
    assert sum(map(sum, found["confusion"]["counts"])) == found["data"]["samples"] == text_run.result["data"]["test"]
    assert found["data"]["unit"] == "sentences"
    baseline = evaluated(text_run.folder / "baseline" / "student")["metrics"]
    assert baseline["top1"] == text_run.result["test"]["baseline"]["top1"]


def test_two_transformers_and_a_saved_one_by_its_folder(text_data: Path, tmp_path: Path) -> None:
    run = distil(tmp_path / "run", text_data, student="transformer-tiny", teacher="textcnn")
    inside, other = evaluated(run.folder), tmp_path / "elsewhere"
    (run.folder / "student").rename(other)
    outside = evaluated(other, "--task", "text", "--data", text_data, "--split", "test")
    assert outside["metrics"] == inside["metrics"]
    assert outside["teachers"] == []


def test_a_model_by_name_takes_weights_with_what_lies_beside_them(text_run: Done, text_data: Path) -> None:
    weights = text_run.folder / "student" / "model.safetensors"
    found = evaluated("bilstm", "--task", "text", "--weights", weights, "--data", text_data, "--split", "test")
    assert found["metrics"]["top1"] == text_run.result["test"]["student"]["top1"]
    untrained = evaluated("textcnn", "--task", "text", "--data", text_data, "data.vocab_size=200")
    assert any("never trained" in note for note in untrained["notes"])


def test_classes_are_told_by_name(text_run: Done, tmp_path: Path) -> None:
    few = sentences(tmp_path / "few.tsv", 30, ["kitchen", "weather"])
    table = tmp_path / "p.csv"
    found = evaluated(text_run.folder, "--data", few, "--split", "all", "--predictions", table,
                      "--bias", "weather=1000", "--teacher", text_run.folder / "student")  # fmt: skip
    support = {row["class"]: row["support"] for row in found["per_class"]}
    assert support == {"harbour": 0, "kitchen": 15, "weather": 15}
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 30
    assert all(row["predicted_class"] == "weather" for row in rows)
    assert all(set(row["text"].split()[:-1]) <= set(few.read_text().split()) for row in rows)
    assert all(len(json.loads(row["logits"])) == 3 for row in rows)
    assert found["teachers"][0]["classes"] == 3
    strange = sentences(tmp_path / "strange.tsv", 20, ["kitchen", "harbour"])
    strange.write_text(strange.read_text().replace("\tharbour", "\tgarage"), encoding="utf-8")
    said = call("eval", text_run.folder, "--data", strange)
    assert said.code == 2
    assert "'garage'" in said.err


def test_predictions_as_parquet(text_run: Done, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    evaluated(text_run.folder, "--predictions", tmp_path / "p.parquet")
    rows = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert {"text", "label", "predicted", "confidence", "logits"} <= set(rows[0])
    assert all(row["text"].startswith("<b>x</b>") for row in rows)


def test_damage_costs_accuracy_and_is_shown(text_run: Done) -> None:
    kinds = [part for kind in STRENGTHS for part in ("--corrupt", f"{kind}:5")]
    found = evaluated(text_run.folder, "--split", "all", *kinds)
    assert [(row["corruption"], row["severity"]) for row in found["robustness"]] == [(k, 5) for k in STRENGTHS]
    by_kind = {row["corruption"]: row["top1"] for row in found["robustness"]}
    assert by_kind["case"] == found["metrics"]["top1"]  # its tokenizer is of lower-case words
    assert found == evaluated(text_run.folder, "--split", "all", *kinds)
    shown = call("eval", text_run.folder, "--corrupt", "typos").out
    assert "sentences" in shown
    assert "MCC" in shown
    assert "image" not in shown


@pytest.mark.parametrize("kind", STRENGTHS)
def test_corruptions_are_functions_of_the_row_and_grow(kind: str) -> None:
    weak, strong = (Corruption(kind, severity)(SENTENCE, 5) for severity in (2, 5))
    assert weak == Corruption.parse(f"{kind}:2")(SENTENCE, 5)
    assert SENTENCE not in (weak, strong)
    assert weak != strong
    assert strong != Corruption(kind, 5)(SENTENCE, 6) != Corruption(kind, 5, seed=1)(SENTENCE, 6)
    first, second = Corruption(kind, 5)((SENTENCE, SENTENCE), 5)
    assert first != second
    assert Corruption(kind, 5)("x", 1).lower() == "x"  # type: ignore[union-attr]


def test_what_each_kind_does() -> None:
    words = SENTENCE.split()
    spelt = str(Corruption("typos", 5)(SENTENCE, 3)).split()
    assert len(spelt) == len(words)
    for before, after in zip(words, spelt, strict=True):
        assert abs(len(after) - len(before)) <= 1
        assert set(after) <= set(before)
    assert str(Corruption("case", 5)(SENTENCE, 3)).lower() == SENTENCE.lower()
    kept = str(Corruption("drop", 5)(SENTENCE, 3)).split()
    left = iter(words)
    assert all(word in left for word in kept)
    assert 0 < len(kept) < len(words)


@pytest.mark.parametrize("text", ["noise", "typos:6", "case:", "drop:x"])
def test_other_corruptions_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--corrupt"):
        Corruption.parse(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image-size", "32"], "--image-size does not apply to sentences"),
        (["--corrupt", "blur"], "there is no 'blur'"),
        (["--split", "most"], "Valid: test, val"),
        (["--weights", "x.pt"], "comes with its own weights"),
        (["data.vocab_size=300"], "data.vocab_size: it comes with the network"),
        (["--predictions", "no/such/place.csv"], "a folder that exists"),
        (["--bias", "garage=1"], "no such class"),
    ],
)
def test_what_makes_no_sense_is_refused(text_run: Done, arguments: list[str], says: str) -> None:
    said = call("eval", text_run.folder, *arguments)
    assert said.code == 2
    assert says in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs/a/nope"], "no folder 'runs/a/nope'"),
        (["bilstm"], "--data"),
        (["bilstm", "--weights", "nope.safetensors", "--data", "pydocs"], "no weights file"),
        (["pyproject.toml"], "is a file"),
        (["tests"], "is no run"),
        ([""], "TARGET is empty"),
    ],
)
def test_what_is_no_target(arguments: list[str], says: str) -> None:
    said = call("eval", *arguments, "--task", "text")
    assert said.code == 2
    assert says in said.err
