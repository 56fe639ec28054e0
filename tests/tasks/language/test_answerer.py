"""A local network as the teacher of ``kdtool generate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import kdtool
from kdtool.errors import InputError
from kdtool.generation.request import Request, Sampling
from kdtool.tasks.language.answerer import Answerer, Choose
from kdtool.tasks.language.models.token_bytes import bytes_of
from tests.generation.files import lines, samples
from tests.running import call
from tests.tasks.language.small import saved, tokens


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of weights so large that it does not say the last token again and again.
    return saved(tmp_path_factory.mktemp("teacher"), tokens(), initializer_range=1.0)


def requests(answerer: Answerer, count: int, **sampling: float) -> list[Request]:
    how = Sampling(**{"new_tokens": 12, **sampling})  # type: ignore[arg-type]
    return [Request(answerer.model, (("user", "how " * (1 + i % 5) + str(i)),), how) for i in range(count)]


def test_an_answer_does_not_depend_on_who_else_is_asked(teacher: Path) -> None:
    answerer = Answerer(str(teacher), "cpu")
    for sampling in ({}, {"temperature": 0.8, "top_p": 0.9}):
        wanted = requests(answerer, 8, **sampling)
        together = [answer.text for answer in answerer.ask(wanted)]
        assert together == [answerer.ask([request])[0].text for request in wanted]
        assert together == [answer.text for answer in reversed(answerer.ask(wanted[::-1]))]
    other = [answer.text for answer in answerer.ask(requests(answerer, 8, temperature=0.8, top_p=0.9, seed=1))]
    assert other != together
    assert all(other)


def test_noise_samples_the_softmax_and_only_the_likeliest_share() -> None:
    logits, count = torch.tensor([2.0, 1.0, 0.0, -1.0]), 20_000
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        probabilities = (logits / temperature).softmax(0)
        if top_p < 1:  # the first two reach 0.88
            probabilities = torch.tensor([*probabilities[:2], 0, 0]) / probabilities[:2].sum()
        choose = Choose(range(count), temperature, top_p, 0)
        drawn = choose(logits.expand(count, 4), 0)
        shares = drawn.bincount(minlength=4) / count
        assert (shares - probabilities).abs().max() < 0.015
        assert shares[probabilities == 0].sum() == 0


def test_log_probabilities_are_those_of_the_network(teacher: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answerer = Answerer(str(teacher), "cpu")
    (request,) = requests(answerer, 1, logprobs=3, temperature=1.0)
    (answer,) = answerer.ask([request])
    assert answer.logprobs is not None
    names = bytes_of(tokens())
    model, library = AutoModelForCausalLM.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    ids = library.apply_chat_template(
        [{"role": "user", "content": request.messages[0][1]}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )["input_ids"]  # fmt: skip
    said = b""
    for token, own, likely in answer.logprobs:
        with torch.no_grad():
            log_p = model(ids).logits[0, -1].log_softmax(0)
        (number,) = (each for each, data in names.items() if data == in_bytes(token))
        said += in_bytes(token)
        assert own == pytest.approx(float(log_p[number]), abs=1e-3)
        values, numbers = log_p.topk(3)
        assert [in_bytes(name) for name, _ in likely] == [names[each] for each in numbers.tolist()]
        assert [value for _, value in likely] == pytest.approx(values.tolist(), abs=1e-3)
        ids = torch.cat([ids, torch.tensor([[number]])], dim=1)
    assert said.decode(errors="replace").removesuffix(library.eos_token).strip() == answer.text


def in_bytes(token: Any) -> bytes:
    return token.encode() if isinstance(token, str) else bytes(token)


def test_a_network_teaches_by_its_text(teacher: Path, tmp_path: Path) -> None:
    data = lines(tmp_path / "q.jsonl", [{"question": f"how are you {i}"} for i in range(12)])
    out = tmp_path / "taught"
    done = call("generate", "--teacher", teacher, "--data", data, "--out", out, "--new-tokens", 8, "--device", "cpu",
                "--samples", 2, "--keep-cut", "--json")  # fmt: skip
    assert done.code == 0, done.err
    card = json.loads(done.out)
    assert card["requests"]["answered"] == 24
    assert card["tokens"]["counted"]
    assert samples(out)
    again = kdtool.generate(str(teacher), data, out, new_tokens=8, samples=2, device="cpu", keep_cut=True)
    assert again["requests"]["sent"] == 24
    other = saved(tmp_path / "other", tokens(), seed=1)
    assert kdtool.generate(str(other), data, out, new_tokens=8, samples=2, device="cpu")["requests"]["sent"] == 48


@pytest.mark.slow
def test_what_does_not_write_is_no_teacher(tmp_path: Path) -> None:
    data = lines(tmp_path / "q.jsonl", [{"question": "x"}])
    with pytest.raises(InputError, match="has no networks that answer questions"):
        kdtool.generate("resnet18", data, tmp_path / "o", task="images")
    with pytest.raises(InputError, match="none/such"):
        kdtool.generate("none/such", data, tmp_path / "o")
