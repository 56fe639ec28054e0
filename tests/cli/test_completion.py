"""Shell completion: the scripts, and what they offer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtool.cli import cli, complete
from kdtool.cli.completion import command
from tests.cli.conftest import Answer

Kdtool = Callable[..., Answer]


def offered(kdtool: Kdtool, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Return what a Tab after ``kdtool words...`` offers in bash."""
    monkeypatch.setenv("_KDTOOL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["kdtool", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    answer = kdtool()
    monkeypatch.delenv("_KDTOOL_COMPLETE")
    return [line.partition(",")[2] for line in answer.out.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_kdtool(kdtool: Kdtool, shell: str) -> None:
    answer = kdtool("completion", shell)
    assert answer.code == 0
    assert f"_KDTOOL_COMPLETE={shell}_complete" in answer.out
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=answer.out, text=True, check=False).returncode == 0


def test_another_shell_is_refused(kdtool: Kdtool) -> None:
    assert kdtool("completion", "tcsh").code == 2


def test_what_is_offered(kdtool: Kdtool, monkeypatch: pytest.MonkeyPatch) -> None:
    kdtool("completion", "bash")  # makes the list of models
    assert "recipes" in offered(kdtool, monkeypatch, "rec")
    assert "fitnets" in offered(kdtool, monkeypatch, "run", "--method", "fit")
    assert "rkd+kd" in offered(kdtool, monkeypatch, "run", "--method", "rkd+k")
    models = offered(kdtool, monkeypatch, "run", "--teacher", "resnet")
    assert {"resnet50", "resnet32x4"} <= set(models)
    assert "digits/mobilenetv3_from_resnet50_kd.yaml" in offered(kdtool, monkeypatch, "run", "digits/")
    assert "digits/mobilenetv3_from_resnet50_kd.yaml" in offered(kdtool, monkeypatch, "recipes", "copy", "digits/")
    assert "kd" in offered(kdtool, monkeypatch, "show", "k")
    assert "none,rkd+kd" in offered(kdtool, monkeypatch, "compare", "--methods", "none,rkd+k")
    assert "resnet18,resnet50" in offered(kdtool, monkeypatch, "compare", "--students", "resnet18,resnet5")
    assert offered(kdtool, monkeypatch, "compare", "--resume", "ru") == ["ru"]  # a file: the shell's business
    for name, flag in (("inspect", "--student"), ("bench", "--teacher"), ("eval", "--teacher")):
        assert "resnet50" in offered(kdtool, monkeypatch, name, flag, "resnet5")
    assert "resnet50" in offered(kdtool, monkeypatch, "profile", "resnet5")


def test_completing_imports_nothing_heavy(kdtool: Kdtool) -> None:
    kdtool("completion", "bash")
    code = (
        "import sys\nfrom kdtool.cli import complete\n"
        "assert 'resnet50' in complete.model_names() and complete.recipes(None, None, 'digits/')\n"
        "assert complete.methods(None, None, 'k')\n"
        "print(sorted({'torch', 'timm', 'omegaconf', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_methods_of_a_composition_are_offered_once() -> None:
    ctx = cli.make_context("kdtool", ["completion", "bash"])
    names = [item.value for item in complete.methods(ctx, command.params[0], "kd+")]
    assert "kd+rkd" in names
    assert "kd+kd" not in names
    listed = [item.value for item in complete.methods(ctx, command.params[0], "kd,")]
    assert "kd,none" in listed
    assert "kd,kd" not in listed


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_completes(kdtool: Kdtool, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(kdtool("completion", "bash").out)
    (tmp_path / "runs").mkdir()
    bash = f"""
        cd {tmp_path}; PATH={Path(sys.executable).parent}:$PATH; . ./script
        for line in "kdtool rep" "kdtool run --method fit" "kdtool run --teacher resnet32x" \\
            "kdtool recipes copy mni"; do
            COMP_WORDS=($line); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
            _kdtool_completion kdtool; echo "${{COMPREPLY[*]}}"
        done"""
    done = subprocess.run(["bash", "-c", bash], capture_output=True, text=True, check=True)
    command, method, teacher, recipe = done.stdout.splitlines()
    assert (command, method) == ("report", "fitnets")
    assert teacher.split() == ["resnet32x4"]
    assert all(name.startswith("mnist/") for name in recipe.split())
    assert recipe
