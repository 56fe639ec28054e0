"""A pair looked at: stages that add up to the network, pairs with their alignment, costs of a step."""

from __future__ import annotations

import json

import pytest

from tests.running import call


@pytest.mark.parametrize("student", ["test_resnet", "test_vit", "test_efficientnet"])
def test_stages_add_up_to_the_network(student: str) -> None:
    found = json.loads(call("inspect", "--teacher", "test_resnet", "--student", student, "--json").out)
    for network in found["networks"]:
        assert sum(row["params"] for row in network["stages"]) == network["params"]
        assert sum(row["macs"] for row in network["stages"]) == network["macs"]
        assert all(row["module"] for row in network["stages"][:-1])


def test_pairs_alignments_and_costs() -> None:
    said = call("inspect", "--teacher", "test_vit", "--student", "test_resnet", "--method", "fitnets", "--json")
    found = json.loads(said.out)
    (pair,) = found["pairs"]
    first, last = found["steps"]
    assert first["alignments"][0]["from"] == pair["student"]["shape"]
    assert last["macs"]["backward"] > last["macs"]["student"] == 64 * found["networks"][-1]["macs"]
    floats = sum(a * b * c for a, b, c in (pair["student"]["shape"], pair["teacher"]["shape"]))
    assert found["tap_bytes"] == 4 * 64 * floats


def test_a_layer_that_is_not_there_is_shown_beside_what_is() -> None:
    said = call("inspect", "--teacher", "test_resnet", "--student", "test_resnet", "--method", "fitnets",
                "fitnets.hint_layer=nope")  # fmt: skip
    assert said.code == 2
    assert "layer1" in said.out
    assert "nope" in said.err


@pytest.mark.parametrize("student", ["test_resnet", "mobilenetv3_small_050"])
def test_backward_costs_twice_the_forward_of_what_trains(student: str) -> None:
    arguments = ["--teacher", "test_resnet", "--student", student, "--method", "none", "--image-size", "64", "--json"]
    (step,) = json.loads(call("inspect", *arguments).out)["steps"]
    # The first convolution needs no gradient of the images.
    assert 1.7 * step["macs"]["student"] < step["macs"]["backward"] <= 2 * step["macs"]["student"]
