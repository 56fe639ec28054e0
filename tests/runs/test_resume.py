"""Going on with runs that were changed, or come from a stranger: what is said, what is refused, what may differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.runs import resume as resuming
from kdtool.runs.folder import claimed, open_for_resume
from tests.running import Done, call, start

NET = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("ran").touch()
def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(here: Path) -> Path:
    """The folder of a run that was stopped at its very beginning."""
    with claimed(recipes.load(flags={"method": "none", "student.model": "test_resnet", "out": str(here / "run")})):
        pass
    return here / "run"


@pytest.fixture
def net(here: Path) -> str:
    (here / "net.py").write_text(NET)
    return f"{here}/net.py:make"


def refused(done: Done, *words: str) -> None:
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_changed_key_is_named_and_stops_unless_accepted(run: Path) -> None:
    refused(call("run", "--resume", run, "train.epochs=7", "--lr", "0.5"), "train.epochs: 30 -> 7", "--accept-changes")
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("seed: 0", "seed: 4").replace("method: none", "method: kd"))
    refused(call("run", "--resume", run), "train.seed: 0 -> 4", 'method: "none" -> "kd"', "teacher.model: ")
    assert open_for_resume(run, accept_changes=True).recipe.train.seed == 4


@pytest.mark.parametrize(
    "free", ["data.workers=2", "checkpoint.keep=5", "train.log_every=1", "train.on_nonfinite=skip"]
)
def test_what_decides_no_result_may_change(run: Path, free: str) -> None:
    found = open_for_resume(run, [free])
    assert found.changes == []
    key, _, value = free.partition("=")
    assert str(getattr(getattr(found.recipe, key.split(".")[0]), key.split(".")[1])) == value


def test_an_accepted_change_is_what_the_run_goes_on_with(here: Path) -> None:
    models = ("--method", "none", "--student", "test_resnet")
    first = start(here / "run", *models, "--epochs", "1")
    assert first.code == 0
    (here / "run" / "result.json").unlink()
    done = call("run", "--resume", here / "run", "--epochs", "2", "--accept-changes", folder=here / "run")
    assert done.code == 0, done.err
    assert "train.epochs: 1 -> 2" in done.out + done.err
    assert "epochs: 2" in (here / "run" / "recipe.yaml").read_text()
    (here / "run" / "result.json").unlink()
    again = call("run", "--resume", here / "run", folder=here / "run")
    assert again.code == 0, again.err
    assert "->" not in again.out + again.err


def test_a_finished_run_shows_its_result_and_changes_no_more(here: Path) -> None:
    done = start(here / "run", "--method", "none", "--student", "test_resnet")
    before = {path: path.stat().st_mtime_ns for path in (here / "run").rglob("*")}
    again = call("run", "--resume", here / "run", "--json")
    assert json.loads(again.out) == done.result
    refused(call("run", "--resume", here / "run", "train.epochs=9"), "finished")
    assert before == {path: path.stat().st_mtime_ns for path in (here / "run").rglob("*")}


def test_changed_data_is_said(here: Path) -> None:
    from tests.running import write_images

    images = write_images(here / "images", {"a": 30, "b": 30})
    done = start(here / "run", "--method", "none", "--student", "test_resnet", "--data", images)
    assert done.code == 0, done.err
    (here / "run" / "result.json").unlink()
    (images / "a" / "0.jpg").write_bytes((images / "a" / "2.jpg").read_bytes() + b"\0")
    refused(call("run", "--resume", here / "run"), "with another images", "--accept-changes")


# --- strangers --------------------------------------------------------------------------------------------------------


def test_no_recipe_alone_runs_code(here: Path, net: str) -> None:
    recipe = here / "stranger.yaml"
    recipe.write_text(f"method: none\nstudent: {net}\n")
    for command in (["run", recipe], ["run", recipe, "--dry-run"], ["bench", recipe]):
        refused(call(*command), "student.model", "may not ask for", f"--student {net}")
    recipe.write_text(f"method: kd\nteacher: [{{model: {net}}}]\n")
    refused(call("run", recipe), "teacher.0.model", f"--teacher {net}")
    recipe.write_text(f"method: kd\nassistants: [{net}]\n")
    refused(call("run", recipe, "--student", "test_resnet"), f"--assistant {net}")
    refused(call("run", recipe, f"data.name={net}"), f"--assistant {net}")
    assert not (here / "ran").exists()
    recipe.write_text(f"method: none\nstudent: {net}\n")
    assert call("run", recipe, "--student", net, "--dry-run", "data.image_size=32").code == 0
    assert (here / "ran").exists()


def test_resuming_asks_for_the_file_again_and_knows_its_digest(here: Path, net: str) -> None:
    flags = {"method": "none", "student.model": net, "out": str(here / "run")}
    with claimed(recipes.load(flags=flags)):
        pass
    refused(call("run", "--resume", here / "run"), f"--student {net}")
    assert open_for_resume(here / "run", flags={"student.model": net}).changes == []
    shutil.move(here / "net.py", here / "moved.py")
    other = f"{here}/moved.py:make"
    assert open_for_resume(here / "run", flags={"student.model": other}).changes == []
    (here / "moved.py").write_text(NET + "# edited\n")
    refused(call("run", "--resume", here / "run", "--student", other), "student.model")
    (here / "net.py").write_text(NET + "# edited\n")
    refused(call("run", "--resume", here / "run", "--student", net), "net.py:make was edited")
    assert not (here / "ran").exists()


@pytest.mark.parametrize("out", ["/tmp/elsewhere", "../elsewhere", "a/../../elsewhere", "~/elsewhere"])
def test_no_recipe_alone_writes_elsewhere(here: Path, out: str) -> None:
    recipe = here / "stranger.yaml"
    recipe.write_text(f"method: none\nout: {out}\n")
    refused(call("run", recipe), "leads out of the current folder", "--out")
    assert recipes.load(recipe, ["out=mine"]).out == "mine"
    recipe.write_text("out: runs/inside\n")
    assert recipes.load(recipe).out == "runs/inside"


@pytest.mark.parametrize("name", ["checkpoints", "student", "metrics.jsonl", "chain/1-x"])
def test_no_run_folder_leads_out(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(tmp_path / "mine")
    refused(call("run", "--resume", run), name.split("/")[-1], "leads out of the run's folder")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_run_says_what_its_own_note_is_when_that_is_torn(run: Path) -> None:
    (run / resuming.FILE).write_text("{")
    with pytest.raises(InputError, match=r"begun\.json cannot be read"):
        open_for_resume(run)
    (run / resuming.FILE).unlink()  # killed before it was written
    assert isinstance(open_for_resume(run).recipe, Recipe)


def test_a_run_whose_out_is_edited_stays_where_it_is(run: Path) -> None:
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("out: null", "out: /tmp/elsewhere"))
    assert open_for_resume(run).recipe.out == str(run)


def test_a_run_of_ones_own_code_is_measured_by_naming_the_code(here: Path, net: str) -> None:
    how = ("--device", "cpu", "--method", "none", "--image-size", "32", "--student", net, "--out", here / "run")
    assert start(here / "run", *how).code == 0
    weights = here / "run" / "student" / "model.safetensors"
    refused(call("eval", here / "run"), f"student.model={net}", f"--weights {weights}")
    refused(call("eval", here / "run" / "student", "--data", "digits"), net, "--weights")
    done = call("eval", net, "--weights", weights, "--data", "digits", "--image-size", "32", "--json")
    assert done.code == 0, done.err
    result = json.loads((here / "run" / "result.json").read_text())
    assert json.loads(done.out)["metrics"]["top1"] == result["test"]["student"]["top1"]
