"""Run folders and locks: who gets which, and what is left when a run does not begin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdtool.errors import InputError, Interrupted
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.runs import environment
from kdtool.runs import folder as runfolder
from kdtool.runs.folder import claimed, held, open_for_resume, resume_command
from kdtool.system.locks import is_held, waiting_lock


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe() -> Recipe:
    return recipes.load(flags={"teacher.model": ["a/b.net:make"], "student.model": "small", "method": "kd"})


def test_runs_at_once_get_folders_of_their_own(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Path("runs/make-small-kd-1")
    with claimed(recipe) as first:
        assert first == taken
        # Both looked before either had made its folder.
        stale = iter([taken, taken])
        choose = runfolder.choose_folder
        monkeypatch.setattr(runfolder, "choose_folder", lambda recipe: next(stale, None) or choose(recipe))
        with claimed(recipe) as second:
            assert second == Path("runs/make-small-kd-2")
    assert {path.name for path in first.iterdir()} == {"recipe.yaml", "environment.json", "begun.json"}


def _fail(recipe: Recipe, wrote: str) -> None:
    with claimed(recipe) as folder:
        (folder / wrote).mkdir(parents=True)
        (folder / wrote / "recipe.yaml").touch()
        raise InputError("the teacher knows nothing")


def test_bad_input_leaves_neither_folder_nor_parents(recipe: Recipe, tmp_path: Path) -> None:
    for out in (None, "deep/er/out"):
        recipe.out = out
        with pytest.raises(InputError, match="knows nothing"):
            _fail(recipe, "chain/1-a")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "deep" / "er" / "out").mkdir(parents=True)
    with pytest.raises(InputError, match="knows nothing"):
        _fail(recipe, "chain/1-a")
    assert [path.name for path in sorted(tmp_path.glob("**/*"))] == ["deep", "er", "out"]


def test_what_was_trained_is_kept(recipe: Recipe) -> None:
    recipe.out = "out"
    with pytest.raises(InputError, match="knows nothing"):
        _fail(recipe, "checkpoints")
    assert open_for_resume(Path("out")).recipe == recipe


def test_a_folder_that_is_held_stays_as_it_is(recipe: Recipe) -> None:
    recipe.out = "out"
    with claimed(recipe) as folder:
        with pytest.raises(InputError, match="exists already"), claimed(recipe):
            pass
        with pytest.raises(InputError, match="being written by another process"), held(folder):
            pass
        assert (folder / "recipe.yaml").is_file()


@pytest.mark.parametrize("out", ["file", "file/below", "full"])
def test_a_place_that_is_taken_is_refused(recipe: Recipe, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    recipe.out = out
    with pytest.raises(InputError, match=r"--out"), claimed(recipe):
        pass
    assert sorted(path.name for path in tmp_path.glob("**/*")) == ["file", "full", "thesis.txt"]


def test_the_resume_command_can_be_pasted_into_a_shell(recipe: Recipe) -> None:
    assert resume_command(Path("runs/my net")) == "kdtool run --resume 'runs/my net'"
    recipe.out = "my net"
    with claimed(recipe) as folder:
        assert (folder / "recipe.yaml").read_text().startswith("# kdtool run --resume 'my net'\n")


def test_folders_that_cannot_be_resumed_say_why(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe\.yaml"):
        open_for_resume(tmp_path)
    with claimed(recipe) as folder:
        pass
    assert open_for_resume(folder).result is None
    (folder / "result.json").write_text('{"method": ')
    with pytest.raises(InputError, match="delete it and resume"):
        open_for_resume(folder)
    (folder / "result.json").unlink()
    (folder / "recipe.yaml").write_text("train: {epochs: many}")
    with pytest.raises(InputError, match=r"train\.epochs"):
        open_for_resume(folder)


def test_a_resumed_run_computes_with_the_threads_it_began_with(tmp_path: Path) -> None:
    warnings: list[str] = []
    before = torch.get_num_threads()
    note = {**environment.current(), "threads": before + 1, "timm": "0.1"}
    (tmp_path / environment.FILE).write_text(json.dumps(note))
    with environment.as_recorded(tmp_path, warnings.append):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert len(warnings) == 1
    assert "timm 0.1, now" in warnings[0]
    for text in ("", "[]", "{}", '{"threads": null}'):
        (tmp_path / environment.FILE).write_text(text)
        with environment.as_recorded(tmp_path, warnings.append):
            assert torch.get_num_threads() == before
    assert len(warnings) == 1


def test_a_signal_ends_the_wait_for_a_lock(tmp_path: Path) -> None:
    said: list[str] = []

    def stop() -> None:
        raise Interrupted("stopped", 143)

    path = tmp_path / "teacher.lock"
    with waiting_lock(path, lambda: said.append("waits"), stop):
        assert said == []
        with pytest.raises(Interrupted), waiting_lock(path, lambda: said.append("waits"), stop):
            pass
    assert said == ["waits"]
    with waiting_lock(path, lambda: said.append("waits"), stop):
        pass
    assert said == ["waits"]


def test_what_a_killed_process_left_goes_with_the_next_that_holds_the_folder(recipe: Recipe) -> None:
    with claimed(recipe) as folder:
        pass
    before = sorted(folder.iterdir())
    (folder / ".result.json.tmp").write_text("{")
    (folder / "checkpoints" / ".step-1.tmp").mkdir(parents=True)
    (folder / "checkpoints" / ".step-1.tmp" / "state.json").write_text("{")
    (folder / "link").mkdir()
    (folder / "link" / ".aside.tmp").symlink_to(folder / "recipe.yaml")
    with held(folder):
        assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]
    assert sorted(folder.iterdir()) == sorted([*before, folder / "checkpoints", folder / "link"])


def test_locks_of_killed_processes_hold_nothing_and_go(recipe: Recipe, tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.touch()
    assert not is_held(lock)
    assert not lock.exists()
    assert not is_held(lock)
    assert not lock.exists()
    lock.touch()
    with waiting_lock(lock, on_wait=lambda: pytest.fail("nobody holds it"), check=lambda: None):
        assert lock.exists()
    assert not lock.exists()
    with claimed(recipe) as folder:
        pass
    (folder / "result.json").write_text("{}")
    (folder / ".lock").touch()
    assert open_for_resume(folder).result == {}
    assert not (folder / ".lock").exists()


def test_hidden_files_of_the_users_own_are_no_leftovers(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".thesis.tmp").write_text("all of it")
    recipe.out = "mine"
    with pytest.raises(InputError, match="exists already"), claimed(recipe):
        pass
    assert (tmp_path / "mine" / ".thesis.tmp").read_text() == "all of it"
    (tmp_path / "killed").mkdir()
    for name in (".lock", ".recipe.yaml.tmp"):
        (tmp_path / "killed" / name).touch()
    recipe.out = "killed"
    with claimed(recipe) as folder:
        assert not (folder / ".recipe.yaml.tmp").exists()
