"""The benchmark beside peers: a page made of what was found alone, and loops that take turns and are counted."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("peers")


def found(peers: ModuleType, kind: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    there = [loop.name for loop in peers.KINDS[kind].loops if loop.name in rates]
    return {
        "command": f"python benchmarks/peers.py --run {kind}",
        "machine": {"device": "cpu", "processor": "A processor", "threads": 2, "torch": "2.0"},
        "versions": {"kdtool": "0.1.0", "mdistiller": "1a2b3c4"},
        "data": "random",
        "steps": 2,
        "rows": [{"loop": name, "rates": rates[name], "peak_mb": 1234.5} for name in there],
        "left_out": {"RepDistiller": "not given"},
    }


def test_the_section_is_made_of_what_was_found(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(peers.page(tmp_path)) == []
    images = found(peers, "images", {"kdtool": [60.0, 50.0, 70.0], "mdistiller": [30.0, 30.0, 35.0]})
    (tmp_path / "images-cpu.json").write_text(json.dumps(images))
    page = tmp_path / "PAGE.md"
    page.write_text("# Benchmarks\n\nkept\n")
    monkeypatch.setattr(peers, "FOUND", tmp_path)
    monkeypatch.setattr(peers.marked, "PAGE", page)
    for _ in range(2):  # again is the same
        peers.marked.write(peers.BEGIN, peers.END, "".join(f"{line}\n" for line in peers.page(tmp_path)))
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nkept\n")
    assert text.count("## Speed, beside peers") == 1
    assert "| loop | images a second | times kdtool | 95% | peak memory, MB |" in text
    assert "| kdtool | 60 | 1 |  | 1,234 |" in text
    assert "| mdistiller | 30 | 0.50 | 0.50 to 0.60 | 1,234 |" in text  # the median of rounds, not of medians
    assert "Left out: RepDistiller, not given." in text
    assert "3 rounds of 2 steps a loop. On: A processor, device cpu, 2 threads, torch 2.0; " in text
    assert "kdtool 0.1.0, mdistiller 1a2b3c4. By:\n\n    python benchmarks/peers.py --run images\n" in text
    assert "tokens a second" not in text


def test_every_loop_has_a_script_and_every_kind_its_reference(peers: ModuleType) -> None:
    for kind in peers.KINDS.values():
        names = [loop.name for loop in kind.loops]
        assert len(set(names)) == len(names)
        assert next(loop for loop in kind.loops if loop.name == kind.reference).given is None
        assert all((peers.LOOPS / f"{loop.script}.py").is_file() for loop in kind.loops)
        assert {(loop.precision, loop.replayed) for loop in kind.loops if loop.script == "kdtool_loop"} == {
            (precision, replayed) for precision in ("fp32", "bf16") for replayed in (False, True)
        }


def test_loops_take_turns_and_one_that_is_not_given_or_fails_is_said(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    loop = (
        f"import sys; sys.path.insert(0, {str(peers.LOOPS)!r}); from turns import Turns, given\n"
        "turns = Turns(given()['steps'], 'cpu')\n"
        "print('a peer may print')\n"
        "for name in turns.over(['a', 'b'], [3, 4]):\n"
        f"    print(given()['precision'], name, file=open({str(log)!r}, 'a'))\n"
    )
    (tmp_path / "good.py").write_text(loop)
    (tmp_path / "bad.py").write_text("raise ValueError('no such thing')\n")
    (tmp_path / "prepare.py").write_text("")
    monkeypatch.setattr(peers, "LOOPS", tmp_path)
    monkeypatch.setattr(peers, "REST", 0.0)
    loops = (
        peers.Loop("kdtool", "good"), peers.Loop("other", "good", precision="bf16"), peers.Loop("broken", "bad"),
        peers.Loop("absent", "good", "mdistiller"),
    )  # fmt: skip
    monkeypatch.setitem(peers.KINDS, "images", peers.Kind("T", "about", "images", "kdtool", loops))
    args = argparse.Namespace(
        device="cpu", steps=2, rounds=2, data=None, repdistiller=None, mdistiller=None, timm=None, torchdistill=False,
        peers_python=sys.executable, trl_python=None,
    )  # fmt: skip
    result = peers.measure("images", args)
    assert result["left_out"] == {"broken": "did not start (ValueError: no such thing)", "absent": "not given"}
    assert [row["loop"] for row in result["rows"]] == ["kdtool", "other"]
    assert all(len(row["rates"]) == 2 and min(row["rates"]) > 0 and row["peak_mb"] > 1 for row in result["rows"])
    block = [f"{each} {name}" for each in ("fp32", "bf16") for name in ("a", "b")]
    assert log.read_text().split("\n")[:-1] == block * 3  # once to warm up, then in turn
    text = "\n".join(peers.table_of(peers.KINDS["images"], result))
    assert "Left out: broken, did not start (ValueError: no such thing); absent, not given." in text


def test_the_plain_loop_differentiates_the_mean_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from contextlib import nullcontext

    monkeypatch.syspath_prepend(str(FOLDER / "peer_loops"))
    plain = importlib.import_module("plain_loop")
    monkeypatch.setattr(plain, "CHUNK", 3)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, num_key_value_heads=1, intermediate_size=12,
        vocab_size=11, initializer_range=0.5,
    )  # fmt: skip
    student, teacher = (transformers.LlamaForCausalLM(config).double() for _ in range(2))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # its fp32, here in double
    ids = torch.randint(11, (2, 5))
    plain.step(student, teacher, ids, nullcontext())
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    total, rows = torch.zeros((), dtype=torch.float64), 0
    s, t = (network(ids).logits.softmax(-1) for network in (student, teacher))
    for sample in range(2):
        for place in range(4):
            p, q = s[sample, place], t[sample, place].detach()
            m = 0.5 * (p + q)
            total = total + 0.5 * sum(b * (b / c).log() for b, c in zip(q, m, strict=True))
            total = total + 0.5 * sum(a * (a / c).log() for a, c in zip(p, m, strict=True))
            rows += 1
    (total / rows).backward()
    for mine, parameter in zip(gradients, student.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-9, atol=1e-12)
