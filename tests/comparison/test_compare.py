"""``kdtool compare`` from the command line to its document: pairing, failures, interruptions."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from scipy import stats

from kdtool.comparison.plan import Cell, Plan, check, load
from kdtool.errors import InputError
from tests.comparison.small import SETTINGS, Process, compare, students, values, without_costs
from tests.running import Done, call

OVERFLOW = ["fitnets.soft_weight=1.0e+39", "fitnets.soft_weight_end=1.0e+39"]
TWO = ["--methods", "none,kd", "--jobs", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two methods with two seeds, never stopped."""
    done = compare(tmp_path_factory.mktemp("whole") / "c", *TWO, "--seeds", "2", "--epochs", "3")
    assert done.code == 0, done.err + done.out
    return done


def test_the_document_is_what_the_runs_say(whole: Done) -> None:
    found = values(whole.folder)
    assert (found["methods"], found["seeds"], found["reference"], found["failed"]) == (
        ["none", "kd"],
        [0, 1],
        "none",
        0,
    )
    assert found["budget"]["steps"] == {"test_efficientnet": 15}
    top1: dict[str, list[float]] = {}
    for run in found["runs"]:
        result = json.loads((Path(run["folder"]) / "result.json").read_text())
        assert run["top1"] == result["test"]["student"]["top1"]
        assert run["last_top1"] == result["test"]["student_last"]["top1"]
        assert (run["steps"], result["seed"]) == (15, run["seed"])
        assert run["cost"]["seconds"] > 0
        assert run["cost"]["memory"]["host"] > 1e8
        top1.setdefault(run["method"], []).append(run["top1"])
    kd = next(row for row in found["rows"] if row["method"] == "kd")
    interval = stats.ttest_rel(top1["kd"], top1["none"]).confidence_interval(0.95)
    assert kd["best"]["mean"] == pytest.approx(sum(top1["kd"]) / 2)
    assert (kd["best"]["difference"]["low"], kd["best"]["difference"]["high"]) == pytest.approx(tuple(interval))


def test_the_table_and_its_sentences_are_printed(whole: Done) -> None:
    said = " ".join(whole.out.split())  # long lines are broken where the terminal ends
    assert "4/4" in said
    assert "2 seeds vary first weights" in said
    assert "143 validation images" in said


def test_runs_of_a_seed_begin_with_one_student_and_see_one_order(whole: Done) -> None:
    import torch

    from kdtool.runs.setting import build_setting

    plan = load(whole.folder)
    runs = {
        (m, s): build_setting(plan.recipe_of(Cell("test_efficientnet", m, s))) for m in plan.methods for s in (0, 1)
    }
    weights = {key: run.networks.student.module.state_dict() for key, run in runs.items()}
    order = {key: torch.cat([batch.index for batch in run.train_batches.epoch(1)]) for key, run in runs.items()}
    for seed in (0, 1):
        one, other = weights["none", seed], weights["kd", seed]
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert torch.equal(order["none", seed], order["kd", seed])
    assert not torch.equal(order["kd", 0], order["kd", 1])
    assert any(not torch.equal(weights["kd", 0][name], weights["kd", 1][name]) for name in weights["kd", 0])


def test_a_finished_comparison_is_not_done_again(whole: Done) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in whole.folder.glob("*/*/seed-*/result.json")}
    again = call("compare", "--resume", whole.folder, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == values(whole.folder)
    assert stamps == {path: path.stat().st_mtime_ns for path in whole.folder.glob("*/*/seed-*/result.json")}


def test_quiet_leaves_the_table(whole: Done) -> None:
    shown = call("compare", "--resume", whole.folder, "--quiet").out
    assert shown.startswith("Test split of digits")
    assert "kd" in shown
    assert call("compare", "--resume", whole.folder, "--quiet", "--json").out.startswith("{")


def test_its_page_shows_what_the_document_says(whole: Done) -> None:
    pytest.importorskip("plotly")
    done = call("report", whole.folder, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert found["page"] == str(whole.folder / "report.html")
    document, (section,) = values(whole.folder), found["sections"]
    assert section["comparison"] == document
    assert section["profile"]["test_efficientnet"]["speed"][0]["median_ms"] > 0
    assert all(f"<p>{sentence}</p>" in page for sentence in document["says"])
    assert all(f">{100 * row['best']['mean']:.2f} ± {100 * row['best']['sd']:.2f}<" in page for row in document["rows"])


@pytest.mark.slow
def test_one_teacher_and_one_cache_serve_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTOOL_HOME", str(tmp_path / "home"))
    folder = tmp_path / "c"
    options = ["--methods", "kd,dkd", "--seeds", "1", "--epochs", "1", "--jobs", "2", "--teacher-cache", "data.views=2"]
    done = compare(folder, *options)
    assert done.code == 0, done.err + done.out
    logs = {path.parent.name: path.read_text() for path in folder.glob("*/*/seed-0.log")}
    assert set(logs) == {"kd", "dkd"}
    assert len([path for path in (tmp_path / "home" / "teachers").iterdir() if path.is_dir()]) == 1
    assert sum("training it on digits first" in text for text in logs.values()) == 1
    assert [each["kind"] for each in json.loads(call("cache", "info", "--json").out)] == ["outputs", "teacher"]
    assert any("kd less dkd" in each or "dkd less kd" in each for each in values(folder)["says"])


@pytest.mark.slow
def test_killed_stopped_and_resumed_equals_uninterrupted(whole: Done, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    first = Process(*SETTINGS, *TWO, "--seeds", "2", "--epochs", "3", "--out", folder)
    first.stop_when("*/*/seed-*/checkpoints/*", folder, signal.SIGKILL)
    second = Process("--resume", folder)
    said = second.stop_when("*/*/seed-*/result.json", folder, signal.SIGTERM)
    if second.process.returncode != 0:  # it may have ended before the signal came
        assert second.process.returncode == 143
        assert f"stopped; resume with: kdtool compare --resume {folder}" in said
    last = call("compare", "--resume", folder)
    assert last.code == 0, last.err + last.out
    assert without_costs(folder) == without_costs(whole.folder)
    assert students(folder) == students(whole.folder)
    assert len(students(folder)) == 4


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    done = compare(folder, "--methods", "none,fitnets", "--seeds", "1", *OVERFLOW, "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert {run["method"]: run["state"] for run in found["runs"]} == {"none": "done", "fitnets": "failed"}
    assert "not finite" in next(run["error"] for run in found["runs"] if run["state"] == "failed")
    assert "1 of 2 runs failed" in done.err
    assert f"kdtool compare --resume {folder}" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--methods none"),
        (["--methods", "none,kdd"], "'kd'"),
        (["--methods", "kd,kd"], "there twice"),
        (["--methods", "kd", "--students", "no_such_net"], "no_such_net"),
        (["--methods", "kd", "fitnets.hint=1"], "add it to --methods"),
        (["--methods", "kd", "train.epochs=0"], "train.epochs"),
        (["--methods", "kd", "generations=2"], "single runs"),
        (["--methods", "kd", "--range", "kd.alpha=0:1"], "--tune N"),
        (["--methods", "kd", "--tune", "2", "data.val_fraction=0"], "validation split"),
        (["--methods", "kd", "--tune", "2", "--range", "kd.alpha=1:0"], "no range"),
        (["--methods", "kd", "--tune", "2", "--range", "kd.alfa=0:1"], "no such option"),
        (["--methods", "kd", "--resume", "x"], "leave --methods out"),
        (["--resume", "nowhere"], "no comparison"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, arguments: list[str], says: str) -> None:
    folder = tmp_path / "c"
    beside = [] if "--resume" in arguments else ["--out", folder, "--teacher", "test_resnet"]
    done = call("compare", *arguments, *beside)
    assert done.code == 2, done.err
    assert says in done.err
    assert not folder.exists()


def test_a_recipe_alone_names_no_code(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"student: {tmp_path}/net.py:make\n")
    (tmp_path / "net.py").write_text("raise SystemExit(9)\n")
    done = call("compare", tmp_path / "r.yaml", "--methods", "none", "--out", tmp_path / "c")
    assert done.code == 2
    assert "name it on the command line too: --students" in done.err


def test_each_method_gets_its_options_and_the_teachers_it_takes() -> None:
    plan = Plan({"teacher": "test_resnet", "kd": {"alpha": 0.5}}, ["none", "kd", "rkd+kd", "byot", "dml"], ["test_vit"],
                [3], overrides=["kd.temperature=2", "rkd.angle=5"])  # fmt: skip
    check(plan)
    recipe = {method: plan.recipe_of(Cell("test_vit", method, 3)) for method in plan.methods}
    assert recipe["kd"].options["kd"].temperature == recipe["rkd+kd"].options["kd"].temperature == 2
    assert recipe["kd"].options["kd"].alpha == 0.5
    assert recipe["rkd+kd"].options["rkd"].angle == 5
    assert recipe["none"].teacher == recipe["byot"].teacher == []
    assert [each.model for each in recipe["dml"].teacher] == ["test_vit"]
    assert {each.train.seed for each in recipe.values()} == {3}


def test_students_that_share_a_folder_are_refused() -> None:
    with pytest.raises(InputError, match="share a folder"):
        check(Plan({}, ["none"], ["a/net", "b/net"], [0]))
