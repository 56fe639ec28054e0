"""Networks for text: what they compute, what of them can be tapped, and two tokenizers side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.text.data.batches import OVERLAP, Maker
from kdtool.tasks.text.data.views import Views, lexicon
from kdtool.tasks.text.models import plain
from kdtool.tasks.text.models.build import OWN, Request, build
from kdtool.tasks.text.models.built import Built
from kdtool.tasks.text.models.save import how_to_open, save_student
from kdtool.tasks.text.models.tokens import Tokens, of_file, of_folder, trained_on
from kdtool.tasks.text.networks import Adapted, keys_of
from kdtool.tasks.text.options import Data

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "unbelievable stories of strange creatures",
    "short",
    "a dog barks at the brown fox and the fox barks back at it",
]


def tokens(size: int = 120, texts: list[str] | None = None, longest: int = 24) -> Tokens:
    return trained_on(texts or TEXTS, size, longest)


def network(model: str, of: Tokens | None = None, seed: int = 0, **args: Any) -> Built:
    return build(Request(model, "scratch", 3, of or tokens(), args, seed, "student"))


def made(*networks: Built, views: Views | None = None) -> Maker:
    split = HeldSplit(TEXTS, np.array([0, 1, 2, 0]), np.arange(len(TEXTS)))
    return Maker(split, keys_of(list(networks)), views)


def all_of(maker: Maker, view: int = 0) -> Any:
    return maker(torch.arange(len(TEXTS)), view)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_a_wordpiece_follows_from_the_texts_alone() -> None:
    program = (
        "import pydoc_data.topics as t\nfrom kdtool.tasks.text.models.tokens import trained_on\n"
        "print(trained_on([l for v in t.topics.values() for l in v.splitlines()], 900, 32).digest)"
    )
    found = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in (0, 1)
    }
    assert len(found) == 1


def test_a_wordpiece_cuts_words_into_known_pieces() -> None:
    own = trained_on(["low lower lowest new newer newest"] * 9, 60, 16)
    (encoded,) = own.encode(["Lowest NEWER zzz"])
    pieces = [own.backend.id_to_token(each) for each in encoded.ids]
    assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
    assert "".join(each.removeprefix("##") for each in pieces[1:-2]) == "lowestnewer"
    assert pieces[-2] == "[UNK]"
    assert own.size <= 60


def test_long_texts_are_cut_at_their_end_and_pairs_at_the_longer_one() -> None:
    own = tokens(longest=10)
    long, pair = own.encode(["the dog " * 40, ("the dog " * 40, "fox")])
    assert len(long.ids) == len(pair.ids) == 10
    assert own.backend.id_to_token(pair.ids[-2]) == "fox"
    assert set(pair.types) == {0, 1}


def test_of_two_tokenizers_in_a_folder_no_other_than_the_named_one_is_taken(tmp_path: Path) -> None:
    own = network("bilstm")
    save_student(tmp_path, own, own.module.state_dict(), ["a", "b", "c"])
    assert of_file(tmp_path / "tokenizer.json", 24).digest == of_file(tmp_path, 24).digest == own.tokens.digest
    (tmp_path / "other.json").write_text(tokens(60).files["tokenizer.json"])
    with pytest.raises(InputError, match=r"other\.json is no tokenizer\.json"):
        of_file(tmp_path / "other.json", 24)


def test_transformers_opens_the_tokenizer_that_is_shipped(tmp_path: Path) -> None:
    import transformers

    own = network("bilstm")
    save_student(tmp_path, own, own.module.state_dict(), ["a", "b", "c"])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXTS)["input_ids"] == [each.ids for each in own.tokens.encode(TEXTS)]
    assert of_folder(str(tmp_path), own.tokens.max_length).digest == own.tokens.digest


# --- what they compute ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", OWN)
def test_padding_never_counts(model: str) -> None:
    own = network(model)
    tapped = own.tapped({"embedding": "embedding", "stages": [0, -1], "words": "tokens"}).double().eval()
    whole, taps, mask = tapped(all_of(made(own)))
    ((key, given),) = all_of(made(own)).items()
    pad = torch.nn.functional.pad
    further = {key: {name: pad(t, (0, 7), value=1 if name == "ids" else 0) for name, t in given.items()}}
    padded, more, _ = tapped(further)
    assert torch.allclose(whole, padded, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip([*taps["stages"], taps["words"]], [*more["stages"], more["words"]], strict=True):
        assert torch.allclose(ours, theirs[:, : ours.shape[1]], rtol=1e-10, atol=1e-12)
        assert not ours[~mask].any()
        assert not theirs[:, ours.shape[1] :].any()


def test_bilstm_is_the_papers_read_word_by_word() -> None:
    own = network("bilstm", embedding=7, hidden=5, width=6)
    module: Any = own.module.double().eval()
    ids = torch.tensor([[3, 9, 4, 8], [5, 6, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    found = module(ids, mask)
    for row, count in enumerate((4, 2)):
        words = module.embedding(ids[row, :count])
        ahead, back = (_lstm(each, order) for each, order in
                       ((module.lstm.forwards, words), (module.lstm.backwards, words.flip(0))))  # fmt: skip
        wanted = module.head(module.hidden(torch.cat([ahead, back])).relu())
        assert torch.allclose(found[row], wanted, rtol=1e-10)


def _lstm(layer: Any, words: Tensor) -> Tensor:
    """Return the last state, gate by gate (Hochreiter & Schmidhuber, 1997, with forget gates)."""
    state = cell = torch.zeros(layer.hidden_size, dtype=words.dtype)
    for word in words:
        gates = layer.weight_ih_l0 @ word + layer.bias_ih_l0 + layer.weight_hh_l0 @ state + layer.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        state = o.sigmoid() * cell.tanh()
    return state


def test_textcnn_is_the_papers_window_by_window() -> None:
    own = network("textcnn", embedding=6, filters=4)
    module: Any = own.module.double().eval()
    ids, mask = torch.tensor([[3, 9, 4, 0, 0]]), torch.tensor([[True, True, True, False, False]])
    words = module.embedding(ids[0, :3])
    most = []
    for convolution in module.convolutions:
        size = convolution.kernel_size[0]
        around = torch.cat([words.new_zeros((size - 1) // 2, 6), words, words.new_zeros(size // 2, 6)])
        windows = [around[i : i + size] for i in range(3)]
        values = [(convolution.weight * window.T).sum((1, 2)) + convolution.bias for window in windows]
        most.append(torch.stack(values).relu().amax(0))
    assert torch.allclose(module(ids, mask)[0], module.head(torch.cat(most)), rtol=1e-10)


@pytest.mark.parametrize(("model", "params"), [("transformer-tiny", 4_385_920), ("transformer-mini", 11_170_560)])
def test_berts_are_as_large_as_published(model: str, params: int) -> None:
    # Turc et al., 2019, table 1: 4.4 and 11.3 million with BERT's vocabulary of 30,522.
    found = build(Request(model, "scratch", 2, tokens(), {"vocab_size": 30_522}, 0, "student"))
    classifier = sum(p.numel() for p in found.module.classifier.parameters())  # type: ignore[union-attr]
    assert sum(p.numel() for p in found.module.parameters()) == params + classifier


def test_first_weights_follow_role_and_seed() -> None:
    for model in OWN:
        states = [network(model, seed=seed).module.state_dict() for seed in (0, 0, 1)]
        same = [all(torch.equal(states[0][name], other[name]) for name in other) for other in states[1:]]
        assert same == [True, False]


# --- taps -------------------------------------------------------------------------------------------------------------


def test_attention_maps_are_those_of_transformers() -> None:
    own = network("transformer-tiny")
    module: Any = own.module
    inputs = all_of(made(own))
    _, taps, mask = own.tapped({"maps": ["attention:0", "attention:1.0"]}).eval()(inputs)
    one = inputs[own.tokens.digest]
    module.set_attn_implementation("eager")
    wanted = module(input_ids=one["ids"], attention_mask=one["mask"].long(), output_attentions=True).attentions
    for ours, theirs in zip(taps["maps"], wanted, strict=True):
        real = mask[:, None, :, None] & mask[:, None, None, :]
        assert torch.allclose(ours, theirs * real, atol=1e-6)


def test_queries_and_keys_at_a_depth_make_that_layers_attention() -> None:
    own = network("transformer-mini", tokens(longest=24))
    layers = {"q": "queries:0.67", "k": "keys:2", "v": "values:-2", "whole": "attention:0.667"}
    _, taps, mask = own.tapped(layers).double().eval()(all_of(made(own)))
    q, k, v = (taps[name].unflatten(2, (4, 64)).transpose(1, 2) for name in "qkv")
    scores = (q @ k.mT / 8).masked_fill(~mask[:, None, None, :], float("-inf"))
    real = mask[:, None, :, None] & mask[:, None, None, :]
    assert torch.allclose(scores.softmax(3) * real, taps["whole"], atol=1e-12)
    found: list[Tensor] = []
    below = own.module.get_submodule(f"{own.parts.stages[2]}.attention.self")
    below.register_forward_hook(lambda _, __, output: found.append(output[0]))
    own.tapped().double().eval()(all_of(made(own)))
    mixed = (taps["whole"] @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(mixed[mask], found[0][mask], atol=1e-12)


@pytest.mark.parametrize("layer", ["attention:9", "attention:1.5", "attention:deep", "keys", "values:9", "lstm2", 7])
def test_a_tap_that_is_not_there_is_told(layer: Any) -> None:
    with pytest.raises(InputError):
        network("transformer-tiny").tapped({"x": layer})


def test_a_network_without_attention_says_so() -> None:
    for kind in ("attention", "queries"):
        with pytest.raises(InputError, match=f"has no self-attention whose {kind} can be read"):
            network("bilstm").tapped({"x": f"{kind}:0"})


# --- two tokenizers ---------------------------------------------------------------------------------------------------


def test_tokens_of_two_tokenizers_meet_where_they_share_characters() -> None:
    student, teacher = network("bilstm"), network("transformer-tiny", tokens(70, TEXTS[2:]))
    inputs = all_of(made(student, teacher))
    ours, theirs = (each.tokens.encode(TEXTS) for each in (student, teacher))
    overlap = inputs[teacher.tokens.digest][OVERLAP + student.tokens.digest]
    for row in range(len(TEXTS)):
        for i, (a, b) in enumerate(ours[row].spans):
            for j, (c, d) in enumerate(theirs[row].spans):
                special = (a == b) and (c == d) and (i == 0) == (j == 0)
                assert bool(overlap[row, i, j]) == (special or (a < d and c < b)), (row, i, j)


def test_an_adapted_teacher_speaks_of_the_students_tokens() -> None:
    student, teacher = network("bilstm"), network("transformer-tiny", tokens(70, TEXTS[2:]))
    inputs = all_of(made(student, teacher))
    plain_net = teacher.tapped({"x": -1, "e": "embedding", "a": "attention:-1"}).eval()
    logits, own, _ = plain_net(inputs)
    met, taps, mask = Adapted(plain_net, student.tokens.digest).eval()(inputs)
    assert torch.equal(met, logits)
    assert torch.equal(taps["e"], own["e"])
    assert torch.equal(mask, inputs[student.tokens.digest]["mask"])
    assert taps["x"].shape[:2] == mask.shape
    overlap = inputs[teacher.tokens.digest][OVERLAP + student.tokens.digest]
    for row, i in mask.nonzero().tolist():
        shared = overlap[row, i].nonzero().flatten()
        wanted = own["x"][row, shared].mean(0) if len(shared) else torch.zeros(128)
        assert torch.allclose(taps["x"][row, i], wanted, atol=1e-6)
    assert not taps["x"][~mask].any()


def test_one_tokenizer_needs_no_meeting() -> None:
    of = tokens()
    student, teacher = network("bilstm", of), network("transformer-tiny", of)
    inputs = all_of(made(student, teacher))
    assert list(inputs) == [of.digest]
    plain_net = teacher.tapped({"x": -1}).eval()
    assert torch.equal(Adapted(plain_net, of.digest).eval()(inputs)[1]["x"], plain_net(inputs)[1]["x"])


# --- views ------------------------------------------------------------------------------------------------------------


def test_views_are_functions_of_seed_view_and_row() -> None:
    def words(view_seed: int, row: int, view: int) -> Any:
        cfg = Data(mask=0.2, drop=0.2, replace=0.2, ngram=0.3, view_seed=view_seed)
        return Views(cfg, lexicon(TEXTS)).of(TEXTS[3], row, view)

    assert words(0, 5, 1) == words(0, 5, 1)
    assert len({str(words(*of)) for of in ((0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 2))}) == 4


def test_shares_of_words_are_hidden_left_out_and_replaced() -> None:
    text = " ".join(f"w{i}" for i in range(400))
    drawn = lexicon(["new"])
    (hidden,) = Views(Data(mask=0.25), drawn).of(text, 0, 0)
    assert len(hidden) == 400
    assert 70 < hidden.count(None) < 130
    (left,) = Views(Data(drop=0.25), drawn).of(text, 0, 0)
    assert 270 < len(left) < 330
    (replaced,) = Views(Data(replace=0.25), drawn).of(text, 0, 0)
    assert 70 < replaced.count("new") < 130
    grams = [Views(Data(ngram=1.0), drawn).of(text, row, 0)[0] for row in range(200)]
    assert {len(gram) for gram in grams} == {1, 2, 3, 4, 5}
    assert all(" ".join(map(str, gram)) in text for gram in grams)


def test_no_view_is_empty() -> None:
    assert Views(Data(drop=1.0), lexicon(TEXTS)).of("all of it", 0, 0) == [["all"]]


def test_a_hidden_word_is_each_tokenizers_own_mask() -> None:
    student, teacher = network("bilstm"), network("transformer-tiny", tokens(70, TEXTS[2:]))
    inputs = all_of(made(student, teacher, views=Views(Data(mask=1.0), lexicon(TEXTS))))
    for each in (student, teacher):
        ids, number = inputs[each.tokens.digest]["ids"], each.tokens.backend.token_to_id("[MASK]")
        assert [int((row == number).sum()) for row in ids] == [len(text.split()) for text in TEXTS]


# --- what ships -------------------------------------------------------------------------------------------------------


def test_a_bert_opens_in_transformers_with_its_class_names(tmp_path: Path) -> None:
    import transformers

    own = network("transformer-tiny")
    save_student(tmp_path, own, own.module.state_dict(), ["bad", "good", "odd"])
    assert "AutoModelForSequenceClassification" in how_to_open(own, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "bad", 1: "good", 2: "odd"}
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(theirs(**batch).logits, own.tapped().eval()(all_of(made(own)))[0])


def test_a_small_network_opens_from_the_code_beside_it(tmp_path: Path) -> None:
    import runpy

    for model in plain.NETWORKS:
        own, folder = network(model, dropout=0.3), tmp_path / model
        save_student(folder, own, own.module.state_dict(), ["a", "b", "c"])
        theirs = runpy.run_path(str(folder / "network.py"))["load"](str(folder))
        one = all_of(made(own))[own.tokens.digest]
        assert torch.equal(theirs(one["ids"], one["mask"]), own.tapped().eval()(all_of(made(own)))[0])


def test_an_encoder_of_a_folder_gets_a_new_classifier_or_keeps_its_own(tmp_path: Path) -> None:
    own = network("transformer-tiny")
    save_student(tmp_path, own, own.module.state_dict(), ["a", "b", "c"])
    of = of_folder(str(tmp_path), 24)
    ready = build(Request(str(tmp_path), "auto", 3, of, {}, 0, "teacher"))
    assert (ready.origin, ready.needs_training) == ("pretrained", False)
    assert torch.equal(ready.module.state_dict()["classifier.weight"], own.module.state_dict()["classifier.weight"])
    other = build(Request(str(tmp_path), "auto", 5, of, {}, 0, "teacher"))
    assert other.needs_training
    assert other.module.state_dict()["classifier.weight"].shape == (5, 128)
    fresh = build(Request(str(tmp_path), "scratch", 3, of, {}, 0, "teacher"))
    with pytest.raises(InputError, match=r"no model_args 'hidden_droput_prob'. Did you mean 'hidden_dropout_prob'"):
        build(Request(str(tmp_path), "auto", 3, of, {"hidden_droput_prob": 0.3}, 0, "teacher"))
    still = build(Request(str(tmp_path), "auto", 3, of, {"hidden_dropout_prob": 0.3}, 0, "teacher"))
    assert still.module.config.hidden_dropout_prob == 0.3
    assert fresh.origin == "scratch"
    assert ready.weights_id != fresh.weights_id


def test_a_users_own_network_gets_vocabulary_and_padding(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nclass Bag(torch.nn.Module):\n"
        "    def __init__(self, classes, size, pad):\n        super().__init__()\n"
        "        self.words = torch.nn.Embedding(size, 8, padding_idx=pad)\n"
        "        self.out = torch.nn.Linear(8, classes)\n"
        "    def forward(self, ids, mask):\n        words = self.words(ids) * mask.unsqueeze(2)\n"
        "        return self.out(words.sum(1) / mask.sum(1, keepdim=True))\n"
        "def bag(num_classes, vocab_size, pad_id):\n    return Bag(num_classes, vocab_size, pad_id)\n"
    )
    own = network(f"{tmp_path / 'own.py'}:bag")
    assert own.tapped({"stage": 0, "e": "embedding"}).shapes() == {"stage": (12, 8), "e": (8,)}
