"""Formats for phones: LiteRT compared with its student and served without kdtool; Core ML as far as this system can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.running import Done, call, distil

pytestmark = pytest.mark.slow

ALONE = """
import sys
for name in ("kdtool", "torch", "timm"):
    sys.modules[name] = None
import json, zipfile
import numpy
from ai_edge_litert.interpreter import Interpreter
with zipfile.ZipFile(sys.argv[1]) as archive:
    said = json.loads(archive.read("kdtool.json"))
size = json.loads(said["preprocessing"])["size"]
runner = Interpreter(sys.argv[1]).get_signature_runner()
found = runner(images=numpy.zeros((1, 3, size, size), numpy.float32))
print(found["logits"].shape, len(json.loads(said["class_names"])))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return distil(tmp_path_factory.mktemp("phones") / "run", "--method", "none", "--student", "test_resnet",
                  "--image-size", "32")  # fmt: skip


def exported(done: Done, *to: str) -> dict[str, Any]:
    said = call("export", done.folder, "--to", ",".join(to), "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_litert_agrees_with_its_student_and_is_measured_and_served(done: Done, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    found = exported(done, "litert")["exports"]["litert"]
    assert 0 <= found["relative_difference"] <= 1e-5
    measured = json.loads(call("eval", found["file"], "--json").out)
    assert measured["metrics"]["top1"] == done.result["test"]["student"]["top1"]
    assert measured["target"]["params"] == done.result["student"]["params"]
    alone = subprocess.run([sys.executable, "-c", ALONE, found["file"]], capture_output=True, text=True, check=True)
    assert alone.stdout.splitlines()[-1] == "(1, 10) 10"
    (tmp_path / "bad.tflite").write_bytes(b"x" * 100)
    said = call("eval", tmp_path / "bad.tflite", "--data", "digits")
    assert said.code == 2
    assert "no network that LiteRT can run" in said.err


def test_a_file_of_another_is_said_to_say_nothing(done: Done, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    whole = Path(exported(done, "litert")["exports"]["litert"]["file"]).read_bytes()
    (tmp_path / "other.tflite").write_bytes(whole[: whole.rindex(b"PK\x03\x04")])  # without the archive behind it
    said = call("eval", tmp_path / "other.tflite", "--data", "digits")
    assert said.code == 2
    assert "does not say how its input is made" in said.err


def test_core_ml_is_read_back(done: Done) -> None:
    pytest.importorskip("coremltools")
    whole = exported(done, "coreml", "coreml-fp16")
    found = whole["exports"]
    for each in found.values():
        assert Path(each["file"]).is_dir()
        assert each["accepted"]
    assert found["coreml-fp16"]["bytes"] < 0.6 * found["coreml"]["bytes"]
    if sys.platform == "darwin":
        assert found["coreml"]["relative_difference"] <= 1e-5
        return
    assert found["coreml"]["relative_difference"] is None
    assert "macOS only" in found["coreml"]["not_compared"]
    assert set(whole["speed"]) == {"student"}
    assert "not compared" in call("export", done.folder, "--to", "coreml").out  # over the older one
    said = call("eval", found["coreml"]["file"])
    assert said.code == 2
    assert "macOS only" in said.err


def test_core_ml_has_the_students_weights(done: Done) -> None:
    coremltools = pytest.importorskip("coremltools")
    from safetensors.numpy import load_file

    model = coremltools.models.MLModel(exported(done, "coreml")["exports"]["coreml"]["file"], skip_model_load=True)
    weights = coremltools.optimize.coreml.get_weights_metadata(model, weight_threshold=1)
    head = load_file(done.folder / "student" / "model.safetensors")["fc.weight"]
    assert any(each.val.shape == head.shape and np.array_equal(each.val, head) for each in weights.values())
    told = json.loads(model.user_defined_metadata["preprocessing"])
    assert told["size"] == 32
