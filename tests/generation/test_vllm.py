"""A teacher in vLLM's own engine: what is said where it is missing, and how its documented outputs are read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdtool.generation.vllm import answer_of
from tests.generation.files import questions
from tests.running import call

TEACHER = "vllm:org/model"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([TEACHER], "pip install 'kdtool[vllm]'"), (["vllm:"], "names no model"),
        ([TEACHER, "--device", "cpu"], "vLLM chooses its devices itself"),
    ],
)  # fmt: skip
def test_one_sentence_says_what_is_missing(tmp_path: Path, given: list[str], said: str) -> None:
    data = questions(tmp_path / "q.jsonl", 2)
    done = call("generate", "--data", data, "--out", tmp_path / "out", "--teacher", *given)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_its_outputs_become_answers() -> None:
    def chance(logprob: float) -> SimpleNamespace:
        return SimpleNamespace(logprob=logprob, rank=1, decoded_token="x")

    likely = [{5: chance(-0.1234567), 7: chance(-2.0)}, {7: chance(-3.0), 9: chance(-0.5), 2: chance(float("-inf"))}]
    found = SimpleNamespace(text=" fine. ", token_ids=[5, 7], finish_reason="length", logprobs=likely)
    answer = answer_of(SimpleNamespace(prompt_token_ids=[1, 2, 3], outputs=[found]), "m", 0.5)
    assert (answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens) == ("fine.", "length", 3, 2)
    assert answer.logprobs == [
        ("token_id:5", -0.12346, [("token_id:5", -0.12346), ("token_id:7", -2.0)]),
        ("token_id:7", -3.0, [("token_id:9", -0.5), ("token_id:7", -3.0), ("token_id:2", -1e4)]),
    ]
