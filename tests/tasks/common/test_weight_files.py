"""Reading weights safely, and fitting them with errors that say what to do."""

from __future__ import annotations

import argparse
import os
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.weight_files import fit, load_state, open_state
from kdtool.tasks.common.weights import digest


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, classes)
    )


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.th", "w.pt"])
def test_flat_files(tmp_path: Path, name: str) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    assert equal(load_state(tmp_path / name), state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "module._orig_mod.", "model.", "net.", "backbone.", "_orig_mod.", "module.model."]
)
def test_nested_and_prefixed_checkpoints(tmp_path: Path, key: str, prefix: str) -> None:
    state, target = network().state_dict(), network()
    with torch.no_grad():
        target[0].weight.zero_()  # type: ignore[operator, union-attr]
    nested = {
        key: {prefix + name: value for name, value in state.items()},
        "epoch": 3,
        "args": argparse.Namespace(lr=1),
    }
    torch.save(nested, tmp_path / "c.pth")
    notes = fit(target, load_state(str(tmp_path / "c.pth")), "the weights", 4)
    assert equal(target.state_dict(), state)
    assert notes == ([f"the weights: their names are read without {prefix!r} before them"] if prefix else [])


@pytest.mark.parametrize("name", ["module", "model", "_orig_mod"])
def test_a_networks_own_first_name_is_no_prefix(tmp_path: Path, name: str) -> None:
    """Its own file fits as it is, and so does one of that network wrapped once more."""
    own = nn.Sequential(OrderedDict({name: network()}))
    for wrapped in ("", "module."):
        torch.save({wrapped + key: value + 1 for key, value in own.state_dict().items()}, tmp_path / "w.pth")
        target = nn.Sequential(OrderedDict({name: network()}))
        fit(target, load_state(tmp_path / "w.pth"), "the weights", 4)
        assert torch.equal(target.state_dict()[f"{name}.0.bias"], own.state_dict()[f"{name}.0.bias"] + 1)
    torch.save({key.removeprefix(f"{name}."): value for key, value in own.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="another network's") as caught:
        fit(own, load_state(tmp_path / "w.pth"), "the weights", 4)
    assert "architecture" not in str(caught.value)


def test_what_is_counted_beside_the_weights_is_ignored() -> None:
    """An average of weights as torch keeps it, profiled by thop, by a version of torch that counted no batches."""
    source, target = network(), network()
    averaged = torch.optim.swa_utils.AveragedModel(source)
    averaged.update_parameters(source)
    state = {**averaged.state_dict(), "total_ops": torch.zeros(1), "module.0.total_params": torch.zeros(1)}
    del state["module.1.num_batches_tracked"]
    assert len(fit(target, state, "the weights", 4)) == 1
    assert equal(target.state_dict(), source.state_dict())
    bare = nn.Sequential(nn.Linear(2, 2))
    fit(bare, {**bare.state_dict(), "0.num_batches_tracked": torch.tensor(3)}, "the weights", 2)


def test_plain_data_beside_the_weights_is_read(tmp_path: Path) -> None:
    beside = {
        "best": np.float64(0.9), "epoch": np.int64(3), "ok": np.bool_(True), "curve": np.arange(3.0),
        "out": Path("runs/x"), "log": defaultdict(list, {"loss": [1.0]}), "args": argparse.Namespace(lr=np.float32(1)),
        "windows": PureWindowsPath("c:/x"), "counter": Counter("aab"), "seen": {1, 2},
    }  # fmt: skip
    state = network().state_dict()
    torch.save({"state_dict": state, **beside}, tmp_path / "c.pth")
    assert equal(load_state(tmp_path / "c.pth"), state)


@pytest.mark.parametrize(("averaged", "raw"), [("state_dict_ema", "state_dict"), ("model_ema", "model")])
def test_averaged_weights_are_taken_as_timm_takes_them(tmp_path: Path, averaged: str, raw: str) -> None:
    import timm.models

    source, place = network(), str(tmp_path / "c.pth")
    states = {name: {key: value + number for key, value in source.state_dict().items()}
              for number, name in enumerate((averaged, raw))}  # fmt: skip
    optimizer = torch.optim.Adam(source.parameters())
    source(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    torch.save({**states, "optimizer": optimizer.state_dict(), "epoch": 3}, place)
    found, notes = open_state(place)
    assert equal(found, timm.models.load_state_dict(place))
    assert equal(found, states[averaged])
    assert [f"those under '{averaged}' are taken, not '{raw}'" in note for note in notes] == [True]
    found, notes = open_state(place, raw)
    assert equal(found, states[raw])
    assert f"'{raw}' are taken" in notes[0]
    with pytest.raises(InputError, match=f"under 'ema'.*under {averaged}, {raw}"):
        open_state(place, "ema")
    torch.save({averaged: {"module." + key: value for key, value in states[averaged].items()}}, place)
    found, notes = open_state(place)  # a file with averaged ones only
    assert (fit(network(), found, "the weights", 4) != [], notes) == (True, [])
    torch.save({"ema": {"model": states[raw]}, averaged: None, raw: states[averaged]}, place)
    assert equal(load_state(place, "ema"), states[raw])
    assert equal(load_state(place), states[averaged])
    torch.save(states[raw], place)
    with pytest.raises(InputError, match="Leave weights_key out"):
        load_state(place, raw)


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": network().state_dict(), "x": Harmful(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(InputError, match="safe"):
        load_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04", b"PK\x03\x04broken"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_state(tmp_path / name)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.ones(2), {}])
def test_a_checkpoint_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(InputError, match="no state dict"):
        load_state(tmp_path / "c.pth")


def test_weights_under_another_key_are_taken_where_it_is_named(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 2)}
    torch.save({"ema": {"module": state, "updates": 3}}, tmp_path / "ema.pth")
    with pytest.raises(InputError, match="It holds weights under ema: weights_key"):
        load_state(tmp_path / "ema.pth")
    assert load_state(tmp_path / "ema.pth", "ema")["weight"].equal(state["weight"])
    torch.save({"module": state, "global_steps": 7}, tmp_path / "sharded.pt")  # as DeepSpeed saves one
    assert load_state(tmp_path / "sharded.pt")["weight"].equal(state["weight"])


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "teacher.pth").touch()
    with pytest.raises(InputError, match=r"teacher\.pth"):
        load_state(tmp_path / "teachr.pth")
    with pytest.raises(InputError, match="local-dir:"):
        load_state(tmp_path)


def test_fit_loads_all_or_nothing() -> None:
    source, target = network(), network()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    state = {n: v for n, v in source.state_dict().items() if not n.endswith("num_batches_tracked")}
    fit(target, state, "the weights", 4)
    assert equal(target.state_dict(), source.state_dict())
    untouched = {name: value.clone() for name, value in target.state_dict().items()}
    wrong = {**network().state_dict(), "0.weight": torch.zeros(5, 3, 1, 1)}
    wrong["extra"] = wrong.pop("1.bias")
    with pytest.raises(InputError) as caught:
        fit(target, wrong, "the weights", 4)
    for part in ("1 missing (1.bias)", "1 unexpected (extra)", "0.weight (5, 3, 1, 1) instead of (5, 3, 3, 3)"):
        assert part in str(caught.value)
    assert equal(target.state_dict(), untouched)


def test_fit_tells_another_class_count() -> None:
    with pytest.raises(InputError, match="for 9 classes, the data has 4"):
        fit(network(4), network(9).state_dict(), "the weights", 4)


def test_digest_sees_names_values_and_types() -> None:
    state: dict[str, Tensor] = {"a": torch.arange(3.0), "b": torch.tensor(1)}
    assert digest(state) == digest(dict(reversed(state.items())))
    changed = [
        {**state, "a": torch.arange(3.0) + 1e-7},
        {"c": state["a"], "b": state["b"]},
        {**state, "a": state["a"].half()},
    ]
    assert len({digest(each) for each in [state, *changed]}) == 4
    assert len(digest({"h": torch.ones(2, 2, dtype=torch.bfloat16)})) == 64
