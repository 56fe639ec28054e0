"""Whole runs on simulated devices: what a Mac picks by itself has no float64."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from kdtool.recipe import load as recipes
from kdtool.runs.setting import build_setting
from tests.running import CHEAP, PAIR, TEACHER, call
from tests.sampling import sampled
from tests.simulated import simulated
from tests.tasks.language.small import LARGER, SIZES, chats
from tests.tasks.text.runs import sentences

FEW = [*CHEAP[1:], "--epochs", "1", "--batch-size", "32", "--lr", "0.003", "teacher.train.epochs=1"]


@pytest.mark.parametrize(
    ("name", "method", "more"),
    sampled(
        [
            ("mps", "rkd+kd", ()),
            ("mps", "crd", ("train.accumulate=2", "train.ema=0.9")),
            ("mps", "dml", ()),
            ("mps", "kd", ("cache.mode=build", "data.views=1", "--precision", "bf16")),
            ("mps", "fitnets", ("--precision", "fp16", "optim.name=sgd", "--epochs", "4")),
            ("cuda", "rkd+kd", ("--precision", "bf16", "train.ema=0.9")),
            ("cuda", "fitnets", ("--precision", "fp16", "optim.name=sgd", "--epochs", "4")),
            ("cuda", "kd", ("cache.mode=build", "data.views=1", "data.erase=0.5", "data.mixup=0.2")),
            ("cuda", "kd", ("--baseline", "train.deterministic=true")),
            ("cuda", "crd", ("train.graph=auto", "--epochs", "2", "data.labels_per_class=16")),
            (
                "cuda",
                "fitnets",
                ("train.graph=auto", "cache.mode=build", "data.views=1", "--epochs", "2", "data.labels_per_class=16"),
            ),
        ],
        ("mps", "rkd+kd", ()),
    ),
)
def test_a_run_from_end_to_end(tmp_path: Path, name: str, method: str, more: tuple[str, ...]) -> None:
    folder = tmp_path / "run"
    with simulated(name) as device:
        given = [*FEW, "--device", "auto", *PAIR, "--method", method, *more]
        done = call("run", *given, "--out", folder, folder=folder)
    assert done.code == 0, done.err
    assert done.result["device"].startswith(name)
    assert sum(device.operations.values()) > 1000
    assert done.file()  # student/, which opens without any device
    assert done.log()[-1]["train"]["total"] < float("inf")


TEXT = ["--task", "text", "--teacher", "transformer-tiny", "--student", "bilstm", "data.vocab_size=200"]
LANGUAGE = ["--task", "language", "teacher.model=llama-tiny", "--student", "llama-tiny", "data.vocab_size=300"]
LANGUAGE += [f"{side}.model_args.{key}={value}" for side, sizes in (("student", SIZES), ("teacher", LARGER))
             for key, value in sizes.items()]  # fmt: skip
SHORT = ["--device", "auto", "--batch-size", "8", "--epochs", "1", "data.max_length=32"]
SHORT += ["teacher.check=off", "teacher.train.epochs=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mps", [*TEXT, "--method", "logits"]),
        ("mps", [*TEXT, "--method", "kd", "train.accumulate=2", "cache.mode=build", "data.views=1"]),
        ("cuda", [*TEXT, "--method", "kd", "--precision", "fp16", "--baseline"]),
        ("mps", [*LANGUAGE, "--method", "kd", "data.packing=true"]),
        ("mps", [*LANGUAGE, "--method", "kd", "cache.mode=build", "cache.top_k=8", "data.views=1"]),
        ("mps", [*LANGUAGE, "--method", "gkd", "gkd.on_policy=0.5"]),
        ("cuda", [*LANGUAGE, "--method", "distillm", "--precision", "bf16", "train.accumulate=2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[1:2] + value[-3:]),
)
def test_a_run_of_texts_from_end_to_end(tmp_path: Path, name: str, given: list[str]) -> None:
    pytest.importorskip("transformers")
    data = sentences(tmp_path / "data.tsv", 40) if given[1] == "text" else chats(tmp_path / "data.jsonl", 24)
    with simulated(name) as device:
        done = call("run", *given, *SHORT, "--data", data, "--out", tmp_path / "run", folder=tmp_path / "run")
    assert done.code == 0, done.err
    assert done.result["device"].startswith(name)
    assert sum(device.operations.values()) > 1000
    assert done.file()
    assert done.log()[-1]["train"]["total"] < float("inf")


@pytest.mark.slow
def test_a_run_is_resumed_there(tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    given = [*FEW, "train.epochs=2", "--device", "cuda", "--teacher", TEACHER, "--student", TEACHER, "--method", "kd"]
    with simulated():
        assert call("run", *given, "--out", whole).code == 0
        assert call("run", *given, "--out", folder).code == 0
        newest = sorted((folder / "checkpoints").iterdir())[-1]
        for file in newest.iterdir():
            file.unlink()
        newest.rmdir()
        (folder / "result.json").unlink()
        assert call("run", "--resume", folder).code == 0
    assert (folder / "student" / "model.safetensors").read_bytes() == (
        whole / "student" / "model.safetensors"
    ).read_bytes()
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    ("name", "more", "samples"),
    [("cpu", {}, 32), ("cuda", {}, 359), ("cuda", {"image_size": 96}, 32), ("cuda", {"batch_size": 50}, 50)],
)
def test_batches_that_are_only_looked_at(name: str, more: dict[str, int], samples: int) -> None:
    """All of the digits' 359 test images at once where a device has room to be idle."""
    recipe = {
        "teacher": [{"model": TEACHER, "check": "off"}],
        "student": {"model": TEACHER},
        "train": {"device": name, "batch_size": 32},
        "eval": {key: value for key, value in more.items() if key == "batch_size"},
        "data": {"image_size": more.get("image_size", 16)},
    }
    with simulated("cuda") if name == "cuda" else nullcontext():
        setting = build_setting(recipes.from_dict(recipe))
        looked, trained = setting.batches(setting.data.test), setting.train_batches
        assert next(iter(looked.epoch(0))).samples == samples
        assert next(iter(trained.epoch(0))).samples == 32
