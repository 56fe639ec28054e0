"""``kdtool eval``, ``inspect`` and ``report`` of language models, and the measures behind them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from kdtool.errors import InputError
from kdtool.tasks.common.texts import answer_of, longest_common, rouge_l
from kdtool.tasks.language.data.chats import Writer
from kdtool.tasks.language.evaluation.answers import Prompt, Questions, write
from kdtool.tasks.language.evaluation.measured import Agreement
from kdtool.tasks.language.models.build import Request, build
from kdtool.tasks.language.objective import TokenMeter
from tests.running import Done, call
from tests.tasks.language.small import TASK, chat, chats, recipe, saved, tokens
from tests.tasks.language.test_run import distil


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("language-eval")
    return distil(place / "run", chats(place / "chats.jsonl"), "--baseline")


def evaluated(*arguments: object) -> dict[str, Any]:
    done = call("eval", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_run_is_measured_as_it_was_beside_its_teacher(run: Done) -> None:
    found = evaluated(run.folder)
    test = run.result["test"]
    assert found["metrics"]["perplexity"] == pytest.approx(test["student"]["perplexity"], rel=1e-6)
    (teacher,) = found["teachers"]
    assert teacher["metrics"]["perplexity"] == pytest.approx(test["teacher"]["perplexity"], rel=1e-6)
    assert 0 < teacher["kl"] < 5
    assert 0 <= teacher["agreement"] <= 1
    positions = teacher["positions"]
    assert sum(each["tokens"] for each in positions) == found["metrics"]["tokens"]
    assert sum(each["tokens"] * each["kl"] for each in positions) / found["metrics"]["tokens"] == pytest.approx(
        teacher["kl"]
    )
    assert found["answers"] is None


def test_a_folder_is_measured_on_other_data_beside_another(run: Done, tmp_path: Path) -> None:
    folder = run.folder / "student"
    found = evaluated(folder, "--task", "language", "--data", chats(tmp_path / "other.jsonl", 20), "--teacher", folder,
                      "data.max_length=64")  # fmt: skip
    (teacher,) = found["teachers"]
    assert teacher["kl"] == pytest.approx(0.0, abs=1e-9)
    assert teacher["agreement"] == 1.0


def test_answers_are_compared_and_shown(run: Done) -> None:
    found = evaluated(run.folder, "--generate", "3", "--new-tokens", "8", "--answer", r"It is (\w+)")
    assert found["answers"]["count"] == 3
    assert {"rouge_l", "exact_match"} <= set(found["metrics"])
    assert set(found["answers"]["samples"][0]["written"]) == {"student", "teacher"}
    shown = call("eval", run.folder, "--generate", "1", "--new-tokens", "4").out
    for wanted in ("perplexity", "ROUGE-L", "reference: It is", "teacher: ", "place in a sample"):
        assert wanted in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corrupt", "typos"], "--corrupt does not apply to language models"),
        (["--answer", "("], "neither gsm8k nor a regular expression"),
        (["--answer", "qqq(z)"], "no answer of .* holds a final one"),
        (["--split", "tests"], "--split tests is none"),
        (["--weights", "x.safetensors"], "comes with its own weights"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Done, arguments: list[str], message: str) -> None:
    done = call("eval", run.folder, *arguments)
    assert done.code == 2
    import re

    assert re.search(message, done.err)


def test_a_page_shows_answers_side_by_side(run: Done, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = call("report", run.folder, "--out", page)
    assert done.code == 0, done.err
    text = page.read_text(encoding="utf-8")
    for wanted in ("Answers side by side", "baseline", "KL(teacher || student)", "perplexity"):
        assert wanted in text


def test_inspect_shows_a_sample_with_what_is_learnt(tmp_path: Path) -> None:
    from tests.tasks.language.test_run import SMALL

    done = call("inspect", *SMALL, "--data", chats(tmp_path / "chats.jsonl"), "--method", "fitnets")
    assert done.code == 0, done.err
    assert "<|im_start|>user\nHow are" in done.out
    assert "<|im_start|>assistant\n⟦It is" in done.out
    assert "<|im_end|>⟧" in done.out
    found = json.loads(call("inspect", *SMALL, "--data", tmp_path / "chats.jsonl", "--json").out)
    bands = found["lengths"]
    # A fifth of the forty is held out for testing, and a tenth of the rest for choosing epochs.
    assert 20 < sum(band["samples"] for band in bands) < 40
    assert all(one["to"] + 1 == other["from"] for one, other in itertools.pairwise(bands))
    assert "Lengths of training samples" in done.out
    assert "█" * 30 in done.out


# --- answers ------------------------------------------------------------------------------------------------------


def network(tmp_path: Path, rows: int = 0) -> Any:
    words = tokens()
    folder = saved(tmp_path / "model", words, rows=words.size + rows)
    return build(Request(str(folder), "auto", words.size, words, {}, 0, "target", 64))


def test_prompts_answered_together_are_answered_as_alone(tmp_path: Path) -> None:
    built = network(tmp_path, rows=40)
    texts = ["rain", "How are you? rain is wet.", "user assistant user"]
    prompts = [Prompt(text, text, "") for text in texts]
    cpu = torch.device("cpu")
    together = write(built, Questions(prompts, 64, 6), cpu)
    assert together == [write(built, Questions([prompt], 64, 6), cpu)[0] for prompt in prompts]
    assert len(set(together)) > 1
    for prompt, written in zip(prompts, together, strict=True):
        ids = built.tokens.library(prompt.text, add_special_tokens=False).input_ids
        for _ in range(6):  # greedily, without what was kept
            logits = built.module(torch.tensor([ids])).logits[0, -1, : built.num_classes]
            ids.append(int(logits.argmax()))
            if ids[-1] == built.tokens.library.eos_token_id:
                break
        begin = len(built.tokens.library(prompt.text, add_special_tokens=False).input_ids)
        assert built.tokens.decode(ids[begin:]).strip() == written


def test_a_prompt_ends_where_the_answer_begins() -> None:
    writer = Writer(tokens(), "auto", "completion")
    sample = chat("How are you?", "wet", "And you?", "cold")
    assert writer(sample).text.startswith(writer.prompt(sample) + "cold")
    plain = Writer(tokens(), "plain", "completion")
    assert plain(sample).text.startswith(plain.prompt(sample) + "cold")


def test_plain_texts_are_gone_on_with(tmp_path: Path) -> None:
    from kdtool.tasks.language.evaluation.answers import prompts_of

    data = TASK.open(recipe("pydocs", data__max_length=64))
    (prompt,) = prompts_of(data, data.test, 1)
    whole = data.sources(data.test)[0]
    assert isinstance(whole, str)
    assert whole.startswith(prompt.text)
    assert whole.endswith(prompt.reference)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7.\n#### 1,007", "1007"),
        ("the answer is 12.50 dollars", "12.5"),
        ("#### -3", "-3"),
        ("it is 7.", "7"),
        ("no idea", None),
    ],
)
def test_final_answers_of_gsm8k(text: str, answer: str | None) -> None:
    assert answer_of("gsm8k")(text) == answer


def test_a_pattern_finds_its_last_match() -> None:
    assert answer_of(r"\b([ABCD])\b")("A or B") == "B"
    assert answer_of(r"yes|no")("no, yes") == "yes"
    assert answer_of(r"yes")("no") is None
    with pytest.raises(InputError, match="neither"):
        answer_of("[")


def test_rouge_l_of_lins_example() -> None:
    # Lin, 2004, section 3.2: S1 "police killed the gunman", S2 "police kill the gunman", S3 "the gunman kill police".
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_l("", reference) == 0.0


@given(st.lists(st.sampled_from("ab"), max_size=6), st.lists(st.sampled_from("ab"), max_size=6))
def test_the_longest_common_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    def subsequences(items: list[str]) -> set[tuple[str, ...]]:
        return {tuple(x for i, x in enumerate(items) if mask >> i & 1) for mask in range(1 << len(items))}

    assert longest_common(one, other) == max(map(len, subsequences(one) & subsequences(other)))


# --- sums ---------------------------------------------------------------------------------------------------------


def test_perplexity_is_what_a_loop_says() -> None:
    logits, labels = torch.randn(7, 5, dtype=torch.float64), torch.tensor([0, 4, -1, 2, 2, 1, 3])
    total, hits, count = 0.0, 0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label >= 0:
            exps = [2.718281828459045**x for x in row]
            total -= float(torch.tensor(exps[label] / sum(exps), dtype=torch.float64).log())
            hits, count = hits + (row.index(max(row)) == label), count + 1
    meter = TokenMeter()
    meter.add(logits[:3], labels[:3], torch.arange(3))
    meter.add(logits[3:], labels[3:], torch.arange(4))
    found = meter.metrics()
    assert found["nll"] == pytest.approx(total / count, rel=1e-9)
    assert found["perplexity"] == pytest.approx(2.718281828459045 ** (total / count), rel=1e-9)
    assert (found["top1"], found["tokens"]) == (hits / count, count)


def test_agreement_is_what_a_loop_says() -> None:
    ours, theirs = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    band = torch.tensor([0, 0, 1, 1, 1, 4])
    p, q = theirs.softmax(1).tolist(), ours.softmax(1).tolist()
    kls = [sum(a * float(torch.tensor(a / b, dtype=torch.float64).log()) for a, b in zip(x, y, strict=True))
           for x, y in zip(p, q, strict=True)]  # fmt: skip
    agreement = Agreement()
    agreement.add(ours[:2], theirs[:2], band[:2])
    agreement.add(ours[2:], theirs[2:], band[2:])
    found = agreement.figures()
    assert found["kl"] == pytest.approx(sum(kls) / 6, rel=1e-9)
    assert [(row["from"], row["to"], row["tokens"]) for row in found["positions"]] == [
        (0, 8, 2), (8, 32, 3), (512, None, 1),
    ]  # fmt: skip
    assert found["positions"][1]["kl"] == pytest.approx(sum(kls[2:5]) / 3, rel=1e-9)
