"""Networks from names, weights, class counts and image sizes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.images.models.build import build
from kdtool.tasks.images.models.save import save_student


def parameters(built_module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in built_module.parameters()])


def test_first_weights_follow_role_and_seed_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    weights = [
        parameters(build("test_resnet", "scratch", 5, 32, seed=seed, role=role).module)
        for seed, role in [(1, "student"), (1, "student"), (2, "student"), (1, "teacher")]
    ]
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


def test_what_is_known_about_a_network() -> None:
    built = build("vit_tiny", "auto", 5, 32, prefer_scratch=True)
    assert built.name == built.timm_name == "vit_tiny_patch16_224"
    assert built.notes == ["vit_tiny -> vit_tiny_patch16_224"]
    assert (built.origin, built.weights_id, built.needs_training) == ("scratch", "scratch", True)
    assert (built.mean, built.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (built.image_size, built.num_classes, built.model_args) == (32, 5, {"img_size": 32})
    assert built.import_first is None


def test_the_image_size_defaults_to_the_networks_own() -> None:
    assert build("test_resnet", "scratch", 5).image_size == 160
    assert build("test_vit", "scratch", 5, model_args={"img_size": 48}).image_size == 48


def test_model_args_reach_the_constructor() -> None:
    built = build("test_vit", "scratch", 5, 32, {"depth": 2, "num_heads": 4})
    assert len(built.module.get_submodule("blocks")) == 2  # type: ignore[arg-type]
    assert built.model_args == {"depth": 2, "num_heads": 4, "img_size": 32}


@pytest.mark.parametrize(
    ("name", "size", "args", "role", "said"),
    [
        ("vit_tiny", 8, {}, "student", r"It takes 32x32: use --image-size 32"),
        ("vit_tiny", 8, {}, "teacher", r"It takes 32x32: use teacher\.image_size=32"),
        ("inception_v3", 32, {}, "student", r"use --image-size 96"),
        ("test_vit", 32, {"img_size": 48}, "student", "img_size=48 and image size 32 differ"),
        ("test_resnet", 32, {"foo": 1}, "student", "cannot be made with {'foo': 1}: TypeError"),
        ("test_resnet", 32, {"num_classes": 3}, "student", "may not hold num_classes"),
        ("test_resnet", 32, {"checkpoint_path": "x"}, "student", "may not hold checkpoint_path"),
        ("test_resnet", 32, {"features_only": True}, "student", "may not hold features_only"),
        ("test_resnet", 32, {"global_pool": ""}, "student", "cannot be made with {'global_pool': ''}"),
    ],
)
def test_what_does_not_run_is_told_with_the_fix(
    name: str, size: int, args: dict[str, object], role: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        build(name, "scratch", 5, size, args, role=role)


# --- weights from files -----------------------------------------------------------------------------------------------


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = build("test_resnet", "scratch", 5, 32, seed=8)
    torch.save({"state_dict": {f"module.{n}": v for n, v in source.module.state_dict().items()}}, tmp_path / "t.pth")
    built = build("test_resnet", str(tmp_path / "t.pth"), 5, 32, prefer_scratch=True)
    assert torch.equal(parameters(built.module), parameters(source.module))
    assert (built.origin, built.needs_training) == (f"file:{tmp_path / 't.pth'}", False)
    assert built.weights_id.startswith("sha256:")


def test_another_class_count_is_an_error_and_no_new_head(tmp_path: Path) -> None:
    torch.save(build("test_vit", "scratch", 9, 64).module.state_dict(), tmp_path / "t.pth")
    for size in (64, 32):
        with pytest.raises(InputError, match="for 9 classes, the data has 5"):
            build("test_vit", str(tmp_path / "t.pth"), 5, size)


def test_weights_of_another_architecture_name_what_differs(tmp_path: Path) -> None:
    torch.save(build("test_resnet", "scratch", 5, 32).module.state_dict(), tmp_path / "t.pth")
    with pytest.raises(InputError, match=r"do not fit the network: .*missing .*unexpected \(conv1"):
        build("mobilenetv3_small_050", str(tmp_path / "t.pth"), 5, 32)
    with pytest.raises(InputError, match="do not fit"):
        build("dla46x_c", str(tmp_path / "t.pth"), 5, 32)  # timm itself would take these silently


def test_position_embeddings_follow_another_image_size(tmp_path: Path) -> None:
    source = build("test_vit", "scratch", 5, 64, seed=8)
    torch.save(source.module.state_dict(), tmp_path / "t.pth")
    built = build("test_vit", str(tmp_path / "t.pth"), 5, 32)
    own, theirs = built.module.state_dict(), source.module.state_dict()
    assert own["pos_embed"].shape != theirs["pos_embed"].shape
    assert torch.equal(own["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    assert not built.needs_training


@pytest.mark.parametrize("weights", ["nowhere.pth", "wordsmith"])
def test_a_missing_file_is_told(weights: str) -> None:
    with pytest.raises(InputError, match=weights):
        build("test_resnet", weights, 5, 32)


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    built = build("test_vit", "scratch", 5, 48, {"depth": 2}, seed=8)
    save_student(tmp_path / "saved", built, built.module.state_dict(), list("abcde"))
    return tmp_path / "saved"


def test_a_folder_brings_weights_size_and_arguments(folder: Path) -> None:
    built = build(f"local-dir:{folder}", "auto", 5, prefer_scratch=True)
    assert (built.image_size, built.needs_training, built.origin) == (48, False, f"file:{folder / 'model.safetensors'}")
    assert built.model_args == {"depth": 2, "img_size": 48}
    fresh = build(f"local-dir:{folder}", "scratch", 9, 32)
    assert (fresh.image_size, fresh.num_classes, fresh.needs_training) == (32, 9, True)
    assert fresh.model_args == {"depth": 2, "img_size": 32}


def test_a_folder_for_other_classes_gets_a_new_head_as_timm_gives_it(folder: Path) -> None:
    built, source = build(f"local-dir:{folder}", "auto", 7), build(f"local-dir:{folder}", "auto", 5)
    assert (built.needs_training, built.origin) == (True, "pretrained")
    assert "its pretrained head is for 5 classes, so it gets a new one for 7" in built.notes[-1]
    own, theirs = built.module.state_dict(), source.module.state_dict()
    assert own.keys() == theirs.keys()
    fresh = build(f"local-dir:{folder}", "scratch", 7).module.state_dict()
    for name, value in own.items():
        assert torch.equal(value, fresh[name] if name.startswith("head.") else theirs[name])
    same = build(f"local-dir:{folder}", "auto", 5, new_head=True)  # as many classes, but others
    assert same.needs_training
    assert not torch.equal(same.module.state_dict()["head.weight"], theirs["head.weight"])


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("headless", [True, False])
def test_a_file_for_other_classes_gets_a_new_head_where_asked(tmp_path: Path, prefix: str, headless: bool) -> None:
    for name, size in (("test_resnet", 32), ("test_vit", 64)):
        source = build(name, "scratch", 9, 64, seed=8)
        heads = ("fc.", "head.") if headless else ()
        state = {prefix + n: v for n, v in source.module.state_dict().items() if not n.startswith(heads or ("-",))}
        torch.save(state, tmp_path / "w.pth")
        built = build(name, str(tmp_path / "w.pth"), 5, size, new_head=True)
        assert built.needs_training
        assert built.origin.startswith("file:")
        assert "with a new head for 5 classes" in " ".join(built.notes)
        parameter = "blocks.0.attn.qkv.weight" if name == "test_vit" else "conv1.0.weight"
        body = built.module.state_dict()[parameter]
        assert torch.equal(body, source.module.state_dict()[parameter])


def test_a_folder_without_a_model_is_told(tmp_path: Path, folder: Path) -> None:
    for path, said in [(tmp_path / "no", "is no folder"), (tmp_path, r"has no config\.json")]:
        with pytest.raises(InputError, match=said):
            build(f"local-dir:{path}", "auto", 5)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        build(f"local-dir:{folder}", "auto", 5)
    for text, said in [
        ("{", "does not describe"),
        ("[]", "does not describe"),
        ('{"architecture": "x"}', "unknown to"),
    ]:
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError, match=said):
            build(f"local-dir:{folder}", "auto", 5)


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_folder_is_executed(folder: Path, tmp_path: Path) -> None:
    torch.save({"x": Harmful(tmp_path / "ran")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="safe"):
        build(f"local-dir:{folder}", "auto", 5)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["checkpoint_path"] = str(folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="may not hold checkpoint_path"):
        build(f"local-dir:{folder}", "auto", 5)
    assert not (tmp_path / "ran").exists()


def test_third_party_networks_name_their_package(tmp_path: Path) -> None:
    from timm.models import register_model

    @register_model
    def kdtool_test_net(pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        model: torch.nn.Module = timm.create_model("test_resnet", pretrained=False, **kwargs)
        return model

    built = build("kdtool_test_net", "auto", 5, 32)
    assert built.import_first == __name__
    assert built.origin == "scratch"
    assert "no pretrained weights" in built.warnings[-1]
