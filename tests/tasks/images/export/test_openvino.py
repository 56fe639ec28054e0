"""OpenVINO's format: compared with its student like ONNX, measured and served by kdtool and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.running import Done, call, distil

ALONE = """
import sys
for name in ("kdtool", "torch", "timm"):
    sys.modules[name] = None
import json
import numpy, openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
told = json.loads(model.get_rt_info(["kdtool", "preprocessing"]).value)
names = json.loads(model.get_rt_info(["kdtool", "class_names"]).value)
images = numpy.zeros((2, 3, told["size"], told["size"]), numpy.float32)
print(core.compile_model(model, "CPU")({"images": images})["logits"].shape, len(names))
"""


TWO_AND_A_SIGNAL = """
import gc, os, signal, sys
from pathlib import Path
from kdtool.tasks.common.export.openvino_file import openvino_network
one, other = (openvino_network(Path(sys.argv[1]))[0] for _ in range(2))
del one
gc.collect()
del other
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return distil(tmp_path_factory.mktemp("ov") / "run", "--method", "none", "--student", "test_resnet",
                  "--image-size", "32")  # fmt: skip


@pytest.fixture(scope="module")
def exports(done: Done) -> dict[str, Any]:
    said = call("export", done.folder, "--to", "openvino,openvino-fp16", "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    assert set(found["speed"]) == {"student", "openvino", "openvino-fp16"}
    return dict(found["exports"])


@pytest.mark.slow
def test_it_agrees_with_its_student(exports: dict[str, Any]) -> None:
    whole, half = exports["openvino"], exports["openvino-fp16"]
    assert whole["relative_difference"] <= 1e-5
    assert half["tolerance"] == {"lost_points": 0.5}
    assert 0 < half["relative_difference"] < 0.05  # other weights, so other logits
    assert half["bytes"] < 0.75 * whole["bytes"]
    assert Path(whole["file"]).with_suffix(".bin").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_signals_reach_a_process_that_let_go_of_two(exports: dict[str, Any]) -> None:
    command = [sys.executable, "-c", TWO_AND_A_SIGNAL, exports["openvino"]["file"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.slow
def test_eval_and_profile_take_the_file(done: Done, exports: dict[str, Any]) -> None:
    found = json.loads(call("eval", exports["openvino"]["file"], "--json").out)
    assert found["metrics"]["top1"] == done.result["test"]["student"]["top1"]
    assert found["target"]["params"] == done.result["student"]["params"]
    assert found["target"]["bytes"] == exports["openvino"]["bytes"]
    profiled = call("profile", exports["openvino"]["file"], "--json")
    assert profiled.code == 0, profiled.err


@pytest.mark.slow
def test_it_runs_without_kdtool(exports: dict[str, Any]) -> None:
    command = [sys.executable, "-c", ALONE, exports["openvino"]["file"]]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[0] == "(2, 10) 10"


def test_a_graph_without_its_weights_is_said(exports: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "student.xml").write_bytes(Path(exports["openvino"]["file"]).read_bytes())
    said = call("eval", tmp_path / "student.xml", "--data", "digits")
    assert said.code == 2
    assert "student.bin" in said.err
    (tmp_path / "student.xml").write_text("<html></html>")
    (tmp_path / "student.bin").write_bytes(b"")
    said = call("eval", tmp_path / "student.xml", "--data", "digits")
    assert said.code == 2
    assert "no graph that OpenVINO can run" in said.err


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("litert", "litert_torch", "litert"),
        ("coreml-fp16", "coremltools", "coreml"),
    ],
)
def test_a_missing_package_is_named(
    done: Done, monkeypatch: pytest.MonkeyPatch, form: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = call("export", done.folder, "--to", form)
    assert said.code == 2
    assert f"pip install 'kdtool[{extra}]'" in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_tensorrt_without_a_card_says_what_to_do(done: Done, tmp_path: Path) -> None:
    said = call("export", done.folder, "--to", "tensorrt")
    assert said.code == 2
    assert "NVIDIA card" in said.err
    assert "kdtool[tensorrt]" in said.err
    (tmp_path / "student.engine").write_bytes(b"x")
    said = call("eval", tmp_path / "student.engine", "--data", "digits")
    assert said.code == 2
    assert "NVIDIA card" in said.err
