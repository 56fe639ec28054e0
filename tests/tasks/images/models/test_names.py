"""What names resolve to, and what unknown ones are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.registry import models
from kdtool.tasks.images.models import names
from kdtool.tasks.images.models.build import build
from kdtool.tasks.images.models.save import save_student


@pytest.fixture(autouse=True)
def _fresh_registrations() -> None:
    models.register.cache_clear()


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("mobilenetv3", "mobilenetv3_large_100"),
        ("mobilenetv2", "mobilenetv2_100"),
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("efficientnet", "efficientnet_b0"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("ResNet-50", "resnet50"),
        ("convnext", "convnext_tiny"),
        ("densenet", "densenet121"),
        ("vgg", "vgg16"),
        ("starnet", "starnet_s1"),
        ("vit_tiny.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_a_family_resolves_to_its_usual_member_and_says_so(given: str, resolved: str) -> None:
    assert names.resolve(given) == (resolved, f"{given} -> {resolved}")


@pytest.mark.parametrize(
    "exact",
    [
        "resnet50",
        "resnet50.a1_in1k",
        "efficientnet_lite0",
        "hf-hub:timm/x",
        "local-dir:a/b",
        "net.py:make",
        "a b/n.py:f",
    ],
)
def test_exact_names_stay(exact: str) -> None:
    assert names.resolve(exact) == (exact, None)


def test_every_alias_names_a_model_of_timm() -> None:
    import timm

    assert [alias for alias, member in names.USUAL_MEMBER.items() if not timm.is_model(member)] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("resnt50", "resnet50"),
        ("resnet5", "resnet50"),
        ("resnet50.a9_in1k", "a3_in1k"),
        ("timm/resnet50.a1_in1k", "hf-hub:timm/resnet50.a1_in1k"),
        ("", "unknown model"),
    ],
)
def test_unknown_names_are_told_the_nearest(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        names.resolve(given)


def test_a_folder_is_told_how_to_load_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"local-dir:{tmp_path}"):
        names.resolve(str(tmp_path))


def test_packages_register_networks_and_a_broken_one_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "somenets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somenets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[kdtool.models]\na_broken = somenets_broken\nb_module = somenets_module\nc_call = somenets_call:register\n"
    )
    source = "from timm.models import register_model\n@register_model\ndef {0}(pretrained=False, **kwargs):\n    pass\n"
    (tmp_path / "somenets_broken.py").write_text("raise OSError('no such library')\n")
    (tmp_path / "somenets_module.py").write_text(source.format("somenet_tiny"))
    body = "def register():\n    " + source.format("somecall_tiny").replace("\n", "\n    ")
    (tmp_path / "somenets_call.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert names.resolve("somenet_tiny")[0] == "somenet_tiny"
        assert names.resolve("somecall")[0] == "somecall_tiny"
        (warning,) = models.register()
        assert "a_broken" in warning
        assert "somenets" in warning
        assert "no such library" in warning
    finally:
        _forget("somenet_tiny", "somecall_tiny")
        for module in ("somenets_module", "somenets_call"):
            sys.modules.pop(module, None)
        models.register.cache_clear()


def _forget(*models: str) -> None:
    from timm.models import _registry as registry

    for model in models:
        registry._model_entrypoints.pop(model, None)
        for known in registry._module_to_models.values():
            known.discard(model)


def test_a_run_or_a_saved_network_is_named_by_its_folder(tmp_path: Path) -> None:
    student = tmp_path / "run" / "student"
    built = build("test_resnet", "scratch", 3, 32)
    save_student(student, built, built.module.state_dict(), ["a", "b", "c"])
    run = str(tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("method: kd\n")
    for name in (run, f"local-dir:{run}", str(student), f"local-dir:{student}"):
        assert names.resolve(name)[0] == f"local-dir:{student}"
        assert not build(name, "auto", 3, 32).needs_training
    assert "is a run: its student is meant" in str(names.resolve(run)[1])
    (student / "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"has no student yet: kdtool run --resume {run}"):
        names.resolve(run)
