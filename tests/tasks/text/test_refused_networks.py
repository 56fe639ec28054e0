"""Networks for text that cannot be: told in one sentence, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdtool.errors import InputError
from kdtool.tasks.text.models.build import Request, build, check_longest
from kdtool.tasks.text.models.save import save_student
from kdtool.tasks.text.models.tokens import of_folder
from tests.tasks.text.test_networks import network, tokens


@pytest.mark.parametrize(
    ("model", "weights", "args", "message"),
    [
        ("bilstmm", "auto", {}, "bilstm"),
        ("bilstm", "pretrained", {}, "no pretrained weights"),
        ("bilstm", "none.safetensors", {}, "no weights file"),
        ("bilstm", "scratch", {"depth": 3}, "depth"),
        ("bilstm", "scratch", {"hidden": 0}, "'hidden': 0. cannot be built"),
        ("bilstm", "scratch", {"embedding": -3}, "'embedding': -3. cannot be built"),
        ("bilstm", "scratch", {"width": "wide"}, "'width': 'wide'. cannot be built"),
        ("bilstm", "scratch", {"dropout": 2}, "'dropout': 2. cannot be built"),
        ("textcnn", "scratch", {"windows": "three"}, "'windows': 'three'. cannot be built"),
        ("textcnn", "scratch", {"windows": [0]}, "cannot be built|does not run"),
        ("textcnn", "scratch", {"windows": []}, "cannot be built|does not run"),
        ("transformer-tiny", "scratch", {"layers": 3}, "num_hidden_layers|layers"),
        ("transformer-tiny", "scratch", {"hidden_size": 130, "num_attention_heads": 4}, "130"),
        ("transformer-tiny", "scratch", {"hidden_size": -2}, "'hidden_size': -2"),
        ("transformer-tiny", "scratch", {"num_hidden_layers": "two"}, "'num_hidden_layers': 'two'"),
        ("transformer-tiny", "scratch", {"num_hidden_layers": 0}, "no encoder with layers"),
        ("no/such/folder", "auto", {}, "unknown model"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_sentence(
    model: str, weights: str, args: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        build(Request(model, weights, 3, tokens(), args, 0, "student"))
    assert "\n" not in str(caught.value)


def test_a_text_that_a_network_has_no_place_for_is_refused_before_the_run(tmp_path: Path) -> None:
    own = network("transformer-tiny", max_position_embeddings=32)
    save_student(tmp_path, own, own.module.state_dict(), ["a", "b", "c"])

    def opened(longest: int) -> None:
        check_longest(build(Request(str(tmp_path), "auto", 3, of_folder(str(tmp_path), longest), {}, 0, "teacher")))

    opened(30)
    opened(32)
    for longest in (33, 5000):
        with pytest.raises(InputError, match=rf"text of 33 tokens .* data\.max_length={longest} "):
            opened(longest)
    check_longest(network("transformer-tiny", tokens(longest=700)))
    check_longest(network("bilstm", tokens(longest=700)))
    (tmp_path / "own.py").write_text(
        "import torch\nclass Placed(torch.nn.Module):\n"
        "    def __init__(self, classes, size):\n        super().__init__()\n"
        "        self.words, self.places = torch.nn.Embedding(size, 8), torch.nn.Embedding(20, 8)\n"
        "        self.out = torch.nn.Linear(8, classes)\n"
        "    def forward(self, ids, mask):\n        place = torch.arange(ids.shape[1])\n"
        "        return self.out((self.words(ids) + self.places(place)).mean(1))\n"
        "def placed(num_classes, vocab_size, pad_id):\n    return Placed(num_classes, vocab_size)\n"
    )
    check_longest(network(f"{tmp_path / 'own.py'}:placed", tokens(longest=20)))
    with pytest.raises(InputError, match=r"text of 21 tokens"):
        check_longest(network(f"{tmp_path / 'own.py'}:placed", tokens(longest=21)))


def test_a_tokenizer_of_more_tokens_than_a_network_has_vectors_for_is_refused(tmp_path: Path) -> None:
    own = network("transformer-tiny", tokens(60))
    save_student(tmp_path, own, own.module.state_dict(), ["a", "b", "c"])
    build(Request(str(tmp_path), "auto", 3, tokens(60), {}, 0, "student"))
    with pytest.raises(InputError, match=r"vectors for \d+ tokens, and its tokenizer has \d+"):
        build(Request(str(tmp_path), "auto", 3, tokens(120), {}, 0, "student"))
