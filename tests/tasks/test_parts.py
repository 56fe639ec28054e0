"""A network's own layers, found by what they are for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdtool.layers import classify
from kdtool.method import Own, Parts
from kdtool.tasks.common.parts import parts_of
from kdtool.tasks.images.models.build import build
from kdtool.testing.material import material


def parts(name: str, taps: dict[str, Any]) -> Parts:
    return parts_of(build(name, "scratch", 5, 64).tapped(taps), True)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnet10t", ["layer1.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),  # not those of the shortcuts, which run later
        ("vgg11_bn", ["features.12", "features.19", "features.26"]),
        ("wrn_16_2", [None, None, None]),  # a convolution comes last
    ],
)
def test_a_stage_comes_out_of_the_norm_of_its_main_path(name: str, norms: list[str | None]) -> None:
    found = parts(name, {"stages": [0.33, 0.67, 1.0]}).norms["stages"]
    assert [each.name if each is not None else None for each in found] == norms


def test_a_named_layer_has_the_norm_that_ran_before_it() -> None:
    found = parts("resnet10t", {"before": "layer4.0.act2:in", "after": "layer4.0.act2", "many": ["layer2.0.bn1"]}).norms
    assert found["before"].name == found["after"].name == "layer4.0.bn2"
    assert [each.name for each in found["many"]] == ["layer2.0.bn1"]


@pytest.mark.parametrize("task", ["images", "text"])
def test_the_classifier_turns_the_embedding_into_the_logits(task: str) -> None:
    found = material(task)
    for kind in found.kinds:
        built, _ = found.networks(kind, [], 0, False)
        network = built.tapped({"embedding": "embedding"}).eval()
        classifier = parts_of(network, False).classifier
        assert isinstance(classifier, Own)
        logits, taps, *_ = network(found.batches([built])[0].inputs)
        torch.testing.assert_close(classify(classifier, taps["embedding"]), logits)


def test_two_classifiers_are_not_one() -> None:
    found = parts("deit_tiny_distilled_patch16_224", {"last": 1.0})
    assert "2 classifiers" in str(found.classifier)
