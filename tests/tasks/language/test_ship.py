"""From a run to files and figures: exports take any batch and length and write what the student writes; profiles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import kdtool
from kdtool.tasks.language.export.served import open_exported
from tests.running import Done, call
from tests.tasks.language.small import LARGER, SIZES, chats
from tests.tasks.language.test_run import distil

pytestmark = pytest.mark.slow

Shipped = tuple[Done, dict[str, Any]]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A run, and what its export says."""
    place = tmp_path_factory.mktemp("ship")
    done = distil(place / "run", chats(place / "chats.jsonl"), "--method", "kd", "--lr", "0.03", epochs=3)
    said = call("export", done.folder, "--json")
    assert said.code == 0, said.err
    return done, json.loads(said.out)


def test_exports_agree_with_their_student_at_any_batch_and_length(shipped: Shipped) -> None:
    from transformers import AutoModelForCausalLM

    done, found = shipped
    assert list(found["exports"]) == ["program", "onnx"]
    assert found["test"]["top1"] == pytest.approx(done.result["test"]["student"]["top1"])
    assert found["test"]["tokens"] == done.result["test"]["student"]["tokens"]
    model = AutoModelForCausalLM.from_pretrained(done.folder / "student")
    for form, each in found["exports"].items():
        opened = open_exported(Path(each["file"]))
        assert opened.about.end_id == model.config.eos_token_id, form
        for batch, length in ((1, 1), (5, 2), (2, 64)):
            ids = torch.randint(300, (batch, length), generator=torch.Generator().manual_seed(length))
            with torch.no_grad():
                torch.testing.assert_close(opened.run(ids), model(ids).logits, atol=1e-5, rtol=1e-5)
    assert json.loads((done.folder / "export" / "export.json").read_text()) == found


def test_what_lies_in_the_folder_writes_without_torch_what_predict_writes(shipped: Shipped) -> None:
    folder = shipped[0].folder
    program = """
import json, pathlib, sys
import numpy, onnxruntime
from tokenizers import Tokenizer
folder, asked, most = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
about = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
session = onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])
turn = f"<|im_start|>user\\n{asked}<|im_end|>\\n<|im_start|>assistant\\n"
ids = tokenizer.encode(turn, add_special_tokens=False).ids
written = []
while len(written) < most and about["end_id"] not in written:
    logits = session.run(["logits"], {"input_ids": numpy.array([ids + written])})[0]
    written.append(int(logits[0, -1].argmax()))
assert not {"torch", "transformers", "kdtool"} & set(sys.modules)
print(json.dumps(tokenizer.decode(written, skip_special_tokens=True).strip()))
"""
    asked = "How are snow and grass? (3)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "export"), asked, "8"], capture_output=True, text=True, check=True
    )
    ((found),) = kdtool.predict(folder, samples=[asked], new_tokens=8)
    assert json.loads(done.stdout) == found.completion != ""


def test_a_profile_counts_tokens_read_and_written(shipped: Shipped) -> None:
    done = call("profile", shipped[0].folder, "--batch-sizes", "1,4", "--seconds", "0.01", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [row["part"] for row in rows] == ["teacher"] * 2 + ["student"] * 2 + ["export"] * 2
    reading, writing = rows[2], rows[3]
    assert reading["params"] == shipped[0].result["student"]["params"]
    assert rows[0]["params"] > reading["params"]
    assert reading["tokens"] == int(reading["input"].split()[0])
    for row in (reading, writing):
        for speed in row["speed"]:
            assert speed["tokens_per_s"] == pytest.approx(speed["samples_per_s"] * row["tokens"])
        assert 0 < row["memory"]["bytes"]["1"] < row["memory"]["bytes"]["4"]
    # Word by word: a layer's matrices once a token, the head's once a text, and attention.
    width, layers, inner, length = SIZES["hidden_size"], SIZES["num_hidden_layers"], SIZES["intermediate_size"], 0
    length = reading["tokens"]
    layer = width * width * 2 + 2 * width * (width // 2) + 3 * width * inner
    least = layers * length * layer + 300 * width
    assert least <= reading["macs"] <= 1.5 * least + 2 * layers * length * length * width
    assert LARGER["num_hidden_layers"] > layers
    assert "tokens a second" in call("profile", shipped[0].folder / "student", "--task", "language", "--batch-sizes",
                                     "1", "--seconds", "0.01", "--length", "9").out  # fmt: skip


def test_a_network_by_name_is_timed_without_data() -> None:
    found = kdtool.profile("llama-tiny", task="language", length=6, batch_sizes=(1,), seconds=0.01)
    assert [row["input"] for row in found["rows"]] == ["6 tokens read", "16 written after 6"]
    assert np.isfinite([row["speed"][0]["tokens_per_s"] for row in found["rows"]]).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "--to", "onnx-int8"], "--to onnx-int8"),
        (["export", "--push-to-hub", "a/b"], "--push-to-hub"),
        (["export", "train.seed=1"], "train.seed"),
        (["profile", "--length", "5000"], "--length 5000"),
        (["profile", "--image-size", "32"], "--image-size"),
    ],
)
def test_what_makes_no_sense_is_refused(shipped: Shipped, words: list[str], said: str) -> None:
    done = call(words[0], shipped[0].folder, *words[1:])
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
