"""Distilling without labels: photos in any folder, a teacher without a classifier, a backbone out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.running import Done, call, distil, write_images

EMBED = ("--method", "embed", "data.labels=false", "--device", "cpu", "embed.dense=0")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows the digits, saved with its classifier."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    done = distil(folder, "--method", "none", "--student", "test_resnet", "--epochs", "6", "data.labels_per_class=null")
    return done.folder / "student"


@pytest.fixture(scope="module")
def run(teacher: Path) -> Done:
    folder = teacher.parents[1] / "embedded"
    how = ("--epochs", "6", "--batch-size", "32", "--lr", "0.003")
    done = call("run", *EMBED, "--teacher", f"local-dir:{teacher}", "--student", "test_efficientnet", *how, "--out",
                folder, folder=folder)  # fmt: skip
    assert done.code == 0, done.err
    return done


@pytest.mark.slow
def test_digits_without_labels(run: Done) -> None:
    test = run.result["test"]
    assert test["student"]["knn"] > 0.9
    assert test["student"]["probe"] > 0.9
    assert test["teacher"]["knn"] > 0.9
    assert run.result["metric"]["key"] == "knn"
    assert "k-NN" in run.out
    losses = [line["train"] for line in run.log() if line.get("phase", "student") == "student"]
    assert all(each.get("task", 0) == 0 for each in losses)
    assert losses[-1]["pooled"] < losses[0]["pooled"]
    # Nothing is said of labels that are not there, nor is a student alone advised, which is refused.
    assert "lopsided" not in run.out + run.err
    assert "--baseline" not in run.out


@pytest.mark.slow
def test_the_student_ships_as_a_backbone(run: Done, tmp_path: Path) -> None:
    config = json.loads((run.folder / "student" / "config.json").read_text())
    assert config["num_classes"] == 0
    assert config["label_names"] == []
    student = timm.create_model(f"local-dir:{run.folder / 'student'}", pretrained=True).eval()
    with torch.no_grad():
        assert student(torch.randn(2, 3, 32, 32)).shape == (2, student.num_features)
    assert not [
        name for name in load_file(run.folder / "student" / "model.safetensors") if name.startswith("classifier")
    ]
    done = call("predict", run.folder, "x.png")
    assert done.code == 2


@pytest.mark.slow
def test_eval_measures_embeddings(run: Done) -> None:
    found = json.loads(call("eval", run.folder, "--json").out)
    test = run.result["test"]
    assert found["metric"]["key"] == "knn"
    assert found["metrics"] == pytest.approx({key: test["student"][key] for key in ("knn", "probe", "rankme")})
    assert found["teachers"][0]["metrics"]["knn"] == test["teacher"]["knn"]
    shown = call("eval", run.folder / "student", "--data", "digits", "--split", "test")
    assert shown.code == 0, shown.err
    assert "k-NN" in shown.out
    assert "linear probe" in shown.out
    refused = call("eval", run.folder, "--bias", "3=1")
    assert refused.code == 2
    assert "gives embeddings" in refused.err


@pytest.mark.slow
def test_exports_give_embeddings(run: Done) -> None:
    import onnxruntime

    done = call("export", run.folder, "--to", "onnx,program")
    assert done.code == 0, done.err
    exports = json.loads((run.folder / "export" / "export.json").read_text())["exports"]
    assert all(each["relative_difference"] <= 1e-5 for each in exports.values())
    for each in exports.values():
        said = call("eval", each["file"], "--data", "digits", "--split", "test", "--json")
        assert json.loads(said.out)["metrics"]["knn"] == pytest.approx(run.result["test"]["student"]["knn"], abs=0.01)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(exports["onnx"]["file"], providers=["CPUExecutionProvider"])
    (embedding,) = session.run(None, {"images": images.numpy()})
    student = timm.create_model(f"local-dir:{run.folder / 'student'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(student(images), torch.from_numpy(embedding), atol=1e-4)
    refused = call("export", run.folder, "--to", "onnx-int8")
    assert refused.code == 2
    assert "gives embeddings" in refused.err
    profiled = json.loads(call("profile", run.folder, "--batch-sizes", "1", "--seconds", "0.01", "--json").out)
    assert [row["part"] for row in profiled["rows"]] == ["teacher", "student", "export", "export"]


@pytest.mark.slow
def test_a_head_is_trained_on_the_backbone(run: Done, tmp_path: Path) -> None:
    done = distil(tmp_path / "run", "--method", "none", "--student", f"local-dir:{run.folder / 'student'}")
    assert done.result["data"]["classes"] == 10


@pytest.mark.parametrize("layout", ["flat", "splits"])
def test_a_folder_without_classes(layout: str, tmp_path: Path) -> None:
    labelled = write_images(tmp_path / "labelled", {"ant": 30, "bee": 30})
    photos = tmp_path / "photos"
    for number, path in enumerate(sorted(labelled.rglob("*.*"))):
        place = photos / ("" if layout == "flat" else "train" if number % 3 else "test")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"{path.parent.name}-{path.name}")
    refused = call("run", "--data", photos, *EMBED[:2], "--device", "cpu", "--dry-run")
    assert refused.code == 2
    assert "data.labels=false" in refused.err
    how = ("--teacher", "test_vit", "--student", "test_resnet", "teacher.weights=scratch", "--epochs", "1")
    done = call("run", "--data", photos, *EMBED, *how, "data.image_size=160", "--batch-size", "8", "--out",
                tmp_path / "run", folder=tmp_path / "run")  # fmt: skip
    assert done.code == 0, done.err
    assert done.result["metric"]["key"] == "rankme"
    assert done.result["test"]["student"]["knn"] is None
    assert done.result["test"]["student"]["rankme"] > 1
    assert done.result["data"]["train"] + done.result["data"]["val"] + done.result["data"]["test"] == 60
    if layout == "splits":
        assert done.result["data"]["test"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "kd"], "reads logits"),
        (["--method", "none"], "hard labels"),
        (["--baseline"], "baseline does not go with data.labels=false"),
        (["data.mixup=0.2"], "data.mixup does not go with"),
        (["data.labels_per_class=4"], "data.labels_per_class does not go with"),
        (["--teacher", "test_resnet"], "teacher.weights=FILE"),
    ],
)
def test_what_needs_labels_is_refused(teacher: Path, more: list[str], says: str) -> None:
    models = ["--teacher", f"local-dir:{teacher}", "--student", "test_efficientnet"]
    done = call("run", *EMBED[:-1], *models, "--dry-run", *more)
    assert done.code == 2, done.out
    assert says in done.err


@pytest.mark.slow
def test_methods_on_features_may_do(teacher: Path) -> None:
    models = ["--teacher", f"local-dir:{teacher}", "--student", "test_efficientnet"]
    for method in ("embed", "rkd", "pkt"):
        done = call("run", "data.labels=false", "--device", "cpu", *models, "--method", method, "--dry-run")
        assert done.code == 0, (method, done.err)
