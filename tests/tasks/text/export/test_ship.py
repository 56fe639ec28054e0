"""From a run to files: exports take any batch and length, agree with the student, and serve without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdtool.tasks.text.export.recurrent import for_onnx, translated
from tests.running import Done, call
from tests.sampling import sampled
from tests.tasks.text.runs import distil, sentences

README = Path(__file__).parents[4] / "README.md"
TEXTS = ["rain", "bread salt oven knife butter soup 3", "ship sail, and a WORD that nobody knows", "x " * 40]
FORMATS = {"bilstm": "onnx,onnx-int8", "textcnn": "onnx", "transformer-tiny": "program,onnx,onnx-int8"}


@pytest.fixture(scope="module", params=sampled(FORMATS, "bilstm"))
def shipped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Done, dict[str, Any]]:
    """A run, and what its export says."""
    place = tmp_path_factory.mktemp("ship")
    done = distil(place / "run", sentences(place / "data.tsv"), student=request.param)
    said = call("export", done.folder, "--to", FORMATS[request.param], "--tolerance", "100", "--json")
    assert said.code == 0, said.err
    return request.param, done, json.loads(said.out)


def expected(done: Done, texts: list[str]) -> np.ndarray:
    """Return the student's logits of texts, one at a time, as transformers or its own file opens it."""
    from kdtool.tasks.text.export.shipped import open_shipped
    from kdtool.tasks.text.models.built import Built

    built: Built = open_shipped(str(done.folder)).built
    rows = []
    for each in built.tokens.encode(list(texts)):
        ids = torch.tensor([each.ids])
        own = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "types": torch.tensor([each.types])}
        with torch.no_grad():
            rows.append(built.tapped().eval()({built.tokens.digest: own})[0][0].numpy())
    return np.array(rows)


def test_exports_agree_with_their_student(shipped: tuple[str, Done, dict[str, Any]]) -> None:
    name, done, found = shipped
    assert list(found["exports"]) == FORMATS[name].split(",")
    assert found["test"]["top1"] == done.result["test"]["student"]["top1"]
    for form, each in found["exports"].items():
        assert Path(each["file"]).is_file()
        if form != "onnx-int8":
            assert each["relative_difference"] <= 1e-5
            assert each["top1"] == found["test"]["top1"]
    if "onnx-int8" in found["exports"]:
        int8 = found["exports"]["onnx-int8"]
        assert int8["tried"][0]["setting"] == "weights and word vectors"
        assert int8["bytes"] < 0.5 * found["exports"]["onnx"]["bytes"]


def test_the_readme_serves_them_alone(shipped: tuple[str, Done, dict[str, Any]], tmp_path: Path) -> None:
    _, done, found = shipped
    code = re.search(r"<!-- serve sentences -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert code is not None
    barred = "import sys\nfor name in ('kdtool', 'torch', 'transformers'): sys.modules[name] = None\n"
    (tmp_path / "serve.py").write_text(barred + code[1], encoding="utf-8")
    for form in found["exports"]:
        if form == "program":
            continue
        command = [sys.executable, tmp_path / "serve.py", found["exports"][form]["file"], *TEXTS]
        said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        lines = [line.partition(" ") for line in said.splitlines()]
        if form == "onnx":
            logits = expected(done, TEXTS)
            np.testing.assert_allclose([json.loads(row) for *_, row in lines], logits, atol=1e-4)
            names = json.loads((Path(found["folder"]) / "serving.json").read_text())["class_names"]
            assert [name for name, *_ in lines] == [names[row] for row in logits.argmax(1)]
        else:
            assert len(lines) == len(TEXTS)


def test_a_program_takes_any_batch_and_length(shipped: tuple[str, Done, dict[str, Any]]) -> None:
    _, done, found = shipped
    if "program" not in found["exports"]:
        said = call("export", done.folder, "--to", "program")
        assert (said.code, "LSTM" in said.err) == ((2, True) if "bilstm" in shipped[0] else (0, False))
        return
    module = torch.export.load(found["exports"]["program"]["file"]).module()
    for count, length in ((1, 1), (5, 9), (2, 16)):
        ids = torch.ones(count, length, dtype=torch.int64)
        assert module(ids, ids, 0 * ids).shape == (count, 3)


def test_no_export_says_where_it_was_made(shipped: tuple[str, Done, dict[str, Any]]) -> None:
    import onnx

    for path in Path(shipped[2]["folder"]).glob("student*.onnx"):
        assert not re.search(rb"\.py\b", onnx.load(str(path)).SerializeToString())


def test_profile_shows_all_of_a_run_at_the_usual_length(shipped: tuple[str, Done, dict[str, Any]]) -> None:
    _, done, found = shipped
    said = call("profile", done.folder, "--batch-sizes", "1,2", "--seconds", "0.01", "--json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)["rows"]
    exports = len(list(Path(found["folder"]).glob("student*")))
    assert [row["part"] for row in rows] == ["teacher", "student", *["export"] * exports]
    assert {row["input"] for row in rows} == {found["input"]}
    assert {row["macs"] for row in rows[1:]} == {rows[1]["macs"]}
    assert all(row["unit"] == "sentences" and row["params"] for row in rows)
    said = call("profile", done.folder, "--batch-sizes", "1", "--seconds", "0.01", "--length", "5")
    assert said.code == 0, said.err
    assert "sentences a second" in said.out
    assert "5 tokens" in said.out


def test_what_is_wrong_is_said(shipped: tuple[str, Done, dict[str, Any]]) -> None:
    name, done, found = shipped
    if name != "textcnn":
        return
    for arguments, says in (
        (["--to", "onnx-fp16"], "--to onnx-fp16 is no format"),
        (["--to", ""], "is no format"),
        (["--tolerance", "101"], "--tolerance 101"),
        (["--push-to-hub", "a/b"], "--push-to-hub does not apply"),
        (["train.epochs=3"], "only those of data"),
        (["--data", "pydocs"], "knows the classes"),
    ):
        said = call("export", done.folder, *arguments)
        assert (said.code, says in said.err) == (2, True), said.err
    said = call("profile", done.folder, "--length", "17")
    assert (said.code, "1 to 16 tokens" in said.err) == (2, True), said.err
    said = call("profile", done.folder, "--image-size", "17")
    assert (said.code, "has no --image-size" in said.err) == (2, True), said.err
    said = call("profile", Path(found["folder"]) / "student.onnx", "--batch-sizes", "1", "--seconds", "0.01", "--json")
    (row,) = json.loads(said.out)["rows"]
    assert (row["part"], row["kind"], row["input"]) == ("export", "onnx", found["input"])


def test_an_export_that_differs_is_not_kept(
    shipped: tuple[str, Done, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kdtool.tasks.common.export import checks

    if shipped[0] != "textcnn":
        return
    monkeypatch.setattr(checks, "EXACT", -1.0)
    said = call("export", shipped[1].folder, "--to", "onnx", "--out", tmp_path / "refused")
    assert said.code == 3
    assert "differs by" in said.err
    assert not list((tmp_path / "refused").glob("*.onnx"))


def test_a_network_by_name_is_profiled_with_the_usual_vocabulary() -> None:
    said = call(
        "profile", "bilstm", "--task", "text", "--length", "7", "--batch-sizes", "1", "--seconds", "0.01", "--json"
    )
    assert said.code == 0, said.err
    (row,) = json.loads(said.out)["rows"]
    assert row["macs"] == 2 * 7 * 4 * (300 + 150) * 150 + 300 * 400 + 400 * 2
    assert row["params"] > 8000 * 300


class _States(nn.Module):
    """All that an LSTM gives, in one tensor a sample."""

    def __init__(self, layer: nn.LSTM):
        super().__init__()
        self.layer = layer

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        out, (last, cell) = self.layer(given)
        mean = out.mean(1 if self.layer.batch_first else 0)
        found: torch.Tensor = torch.cat([mean, *last, *cell], dim=1)
        return found


LSTMS: list[dict[str, Any]] = [{}, {"num_layers": 2}, {"bidirectional": True, "num_layers": 2}, {"bias": False}]


@pytest.mark.parametrize("options", sampled(LSTMS, LSTMS[2]))
@pytest.mark.parametrize("batch_first", [True, False])
def test_every_lstm_becomes_the_same_in_onnx(options: dict[str, Any], batch_first: bool, tmp_path: Path) -> None:
    import onnx

    from kdtool.tasks.common.export import onnx_file, program
    from kdtool.tasks.common.export.opened import onnx_session

    torch.manual_seed(0)
    module = _States(nn.LSTM(5, 7, batch_first=batch_first, **options)).eval()
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1, max=20)
    free = [{0: batch, 1: length} if batch_first else {0: length, 1: batch}]
    given = torch.randn(2, 3, 5)
    model = onnx_file.to_onnx(program.trace(for_onnx(module), [given], free), {"given": given}, free, translated())
    onnx.save(model, str(tmp_path / "lstm.onnx"))
    session = onnx_session(tmp_path / "lstm.onnx")
    for sides in ((1, 1), (4, 9), (11, 2)):
        given = torch.randn(*sides, 5)
        with torch.no_grad():
            logits = module(given)
        np.testing.assert_allclose(session.run(None, {"given": given.numpy()})[0], logits.numpy(), atol=1e-5)
