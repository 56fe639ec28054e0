"""The folder that ships."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from kdtool.errors import InputError
from kdtool.tasks.images.models.build import Built, build
from kdtool.tasks.images.models.save import how_to_open, save_student

NAMES = ["zero", "one", "two"]


def test_config_carries_what_timm_users_need(tmp_path: Path) -> None:
    built = dataclasses.replace(build("vit_tiny", "scratch", 3, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    path = save_student(tmp_path, built, built.module.state_dict(), NAMES, crop_pct=0.9)
    assert path == tmp_path / "model.safetensors"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["model_args"] == {"img_size": 32}
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    data = timm.data.resolve_model_data_config(opened)
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert tuple(data["mean"]) == (0.1, 0.2, 0.3)
    assert tuple(data["std"]) == (0.4, 0.5, 0.6)
    assert (data["crop_pct"], data["interpolation"], data["crop_mode"]) == (0.9, "bicubic", "center")
    assert list(opened.pretrained_cfg["label_names"]) == NAMES
    assert not {"url", "hf_hub_id"} & set(config["pretrained_cfg"])


def test_a_tagged_name_and_options_survive(tmp_path: Path) -> None:
    args = {"patch_size": 8, "depth": 2}
    built = build("test_vit.r160_in1k", "scratch", 3, 32, args)
    save_student(tmp_path, built, built.module.state_dict(), NAMES)
    images = torch.randn(2, 3, 32, 32)
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(opened(images), built.module.eval()(images))
    assert build(f"local-dir:{tmp_path}", "auto", 3).model_args == {"patch_size": 8, "depth": 2, "img_size": 32}


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        built = build("mobilenetv3_small_050", "scratch", 3, 32, seed=1)
        state = built.module.to(memory_format=torch.channels_last).state_dict()  # type: ignore[call-overload]
        state = dict(reversed(state.items())) if folder == "b" else state
        save_student(tmp_path / folder, built, state, NAMES)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]


def test_saving_replaces_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("x")
    built = build("test_resnet", "scratch", 3, 32)
    save_student(tmp_path, built, built.module.state_dict(), NAMES)
    again = {name: torch.zeros_like(value) for name, value in built.module.state_dict().items()}
    path = save_student(tmp_path, built, again, NAMES)
    assert all(not value.any() for value in load_file(path).values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "kept.txt", "model.safetensors"]


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    shared = torch.randn(4, 4)
    built = dataclasses.replace(build("test_resnet", "scratch", 3, 32))
    path = save_student(tmp_path, built, {"a": shared, "b": shared, "c": shared.t(), "d": shared[1:]}, NAMES)
    loaded = load_file(path)
    assert torch.equal(loaded["a"], loaded["b"])
    assert torch.equal(loaded["c"], shared.t())
    assert torch.equal(loaded["d"], shared[1:])


@pytest.fixture
def own(tmp_path: Path) -> Built:
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\nfrom pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
        "def make(num_classes, width=4):\n    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))\n"
    )
    return build(f"{source}:make", "scratch", 3, 16, {"width": 6})


def test_an_own_architecture_says_how_to_load_it(own: Built, tmp_path: Path) -> None:
    path = save_student(tmp_path / "student", own, own.module.state_dict(), NAMES)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["kdtool"] == {"source": f"{tmp_path}/net.py:make", "sha256": own.source_hash}
    again = build(config["kdtool"]["source"], str(path), config["num_classes"], 16, config["model_args"])
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.module.eval()(images), own.module.eval()(images))
    assert "make(num_classes=3, width=6)" in how_to_open(own, path.parent)


def test_a_weights_folder_never_runs_code_that_it_names(own: Built, tmp_path: Path) -> None:
    save_student(tmp_path / "student", own, own.module.state_dict(), NAMES)
    (tmp_path / "ran").unlink()
    with pytest.raises(InputError, match=r"net\.py:make as the model and .*model\.safetensors as its weights"):
        build(f"local-dir:{tmp_path / 'student'}", "auto", 3)
    assert not (tmp_path / "ran").exists()


def test_how_to_open_names_the_package_that_registers_the_network(tmp_path: Path) -> None:
    built = build("test_resnet", "scratch", 3, 32)
    assert how_to_open(built, "runs/x") == 'timm.create_model("local-dir:runs/x", pretrained=True)'
    assert built.import_first is None
    other = dataclasses.replace(built, import_first="somenets.models")
    assert how_to_open(other, "runs/x").startswith("import somenets.models; timm.create_model(")


def test_nothing_but_tensors_is_needed_from_the_module(tmp_path: Path) -> None:
    built = build("test_resnet", "scratch", 3, 32)
    bare = dataclasses.replace(built, module=nn.Identity())
    save_student(tmp_path, bare, built.module.state_dict(), NAMES)
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_classes == 3
