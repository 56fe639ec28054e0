"""``kdtool generate`` from outside: a set that trains, what a rerun asks for, filters, cards and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import kdtool
from kdtool.errors import InputError, RunError
from kdtool.tasks.common.texts import rouge_l
from tests.generation.files import lines, questions, samples
from tests.generation.serving import Plan, serve
from tests.running import call

QUICK: dict[str, Any] = {"backoff_s": 0.001, "retries": 3}


def adds(messages: list[dict[str, str]], seed: int) -> str:
    """Answer a sum as a language model might: every fourth answer is wrong."""
    first, second = map(int, re.findall(r"\d+", messages[-1]["content"])[:2])
    return f"We add {first} and {second}.\n#### {first + second + (seed % 4 == 0)}"


def test_a_set_is_made_kept_and_asked_for_once(tmp_path: Path) -> None:
    plan, out = Plan(answer=adds), tmp_path / "taught"
    arguments = ["generate", "--data", questions(tmp_path / "q.jsonl", 12), "--out", out, "--style", "cot", "--samples",
                 4, "--answer", "gsm8k", "--price", "2,4"]  # fmt: skip
    with serve(plan) as address:
        done = call(*arguments, "--teacher", address, "--json")
        assert done.code == 0, done.err
        card = json.loads(done.out)
        assert card["requests"] == {"wanted": 48, "answered": 48, "refused": 0, "failed": 0, "retries": 0, "sent": 48}
        assert card["tokens"] == {"prompt": 48 * 7, "completion": 48 * 11, "counted": True}
        assert card["cost"]["sum"] == pytest.approx(48 * (7 * 2 + 11 * 4) / 1e6)
        assert card == json.loads((out / "card.json").read_text())
        assert len({(body["messages"][-1]["content"], body["seed"]) for body in plan.bodies}) == 48
        assert plan.bodies[0]["messages"][-1]["content"].endswith("the final answer alone.")
        # Filters cost nothing, and so does a shorter list; more samples cost what is new.
        done = call(*arguments, "--teacher", address, "--keep-correct", "--json")
        correct = json.loads(done.out)
        assert len(plan.bodies) == 48
        right = sum(body["seed"] % 4 != 0 for body in plan.bodies)
        (counted,) = [each for each in correct["filters"] if each["name"] == "correct"]
        assert (counted["before"], counted["after"]) == (48, right)
        arguments[arguments.index("--samples") + 1] = 5
        assert call(*arguments, "--teacher", address).code == 0
        assert len(plan.bodies) == 60
        # Another prompt, temperature or number of tokens is another answer.
        assert call(*arguments, "--teacher", address, "--temperature", "0.9", "--limit", 2).code == 0
        assert len(plan.bodies) == 70
    for sample in samples(out):
        user, assistant = sample["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert re.fullmatch(r"What is \d+ and \d+\?", user["content"])  # the student is not told how to think
        assert "####" in assistant["content"]


def test_what_was_made_is_data_that_a_student_trains_on(tmp_path: Path) -> None:
    out = tmp_path / "taught"
    with serve(Plan(answer=adds)) as address:
        kdtool.generate(address, questions(tmp_path / "q.jsonl", 40), out, style="cot")
    done = call("run", "--task", "language", "--data", out, "--method", "none", "--student", "llama-tiny",
                "--epochs", 1, "--batch-size", 8, "--out", tmp_path / "run", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()


def test_requests_that_fail_are_told_and_asked_again(tmp_path: Path) -> None:
    plan, data = Plan(lambda question, times: "500" if "3" in question and times < 4 else ""), tmp_path / "q.jsonl"
    questions(data, 5)  # two of them hold a 3
    with serve(plan) as address:
        with pytest.raises(RunError, match=r"2 of 5 requests failed.*the same command asks again"):
            kdtool.generate(address, data, tmp_path / "out", concurrency=2, **QUICK)
        assert len(samples(tmp_path / "out")) == 3
        failed = [json.loads(line) for line in (tmp_path / "out/asked/failed.jsonl").read_text().splitlines()]
        assert [each["why"] for each in failed] == ["status 500: of mine"] * 2
        card = kdtool.generate(address, data, tmp_path / "out", concurrency=2, **QUICK)
    assert (card["requests"]["answered"], card["requests"]["failed"]) == (5, 0)
    assert (tmp_path / "out/asked/failed.jsonl").read_text() == ""
    assert set(plan.answered.values()) == {1}


def test_a_dry_run_asks_nothing(tmp_path: Path) -> None:
    plan = Plan()
    with serve(plan) as address:
        done = call("generate", "--teacher", address, "--data", questions(tmp_path / "q.jsonl", 3), "--out",
                    tmp_path / "out", "--dry-run", "--price", "1,1")  # fmt: skip
    assert done.code == 0, done.err
    assert "user: What is 0 and 1?" in done.out
    assert "3 requests, 0 are answered" in done.out
    assert plan.bodies == []
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_budget_stops_and_the_next_goes_on(tmp_path: Path) -> None:
    plan, data = Plan(), questions(tmp_path / "q.jsonl", 9)
    with serve(plan) as address:
        card = kdtool.generate(address, data, tmp_path / "out", max_requests=4)
        assert (card["stopped"], card["requests"]["answered"]) == ("--max-requests 4 is used up", 4)
        assert len(samples(tmp_path / "out")) == 4
        assert kdtool.generate(address, data, tmp_path / "out", max_requests=4)["requests"]["answered"] == 4
        assert kdtool.generate(address, data, tmp_path / "out", max_requests=9)["stopped"] is None
    assert len(plan.bodies) == 9


def test_a_rationale_becomes_two_tasks(tmp_path: Path) -> None:
    def explains(messages: list[dict[str, str]], seed: int) -> str:
        return "The words are kind.\nSo it is good.\n\n**Answer:** positive" if "a" in messages[0]["content"] else "?"

    data = lines(tmp_path / "q.jsonl", [{"text": "a warm film", "label": "positive"}, {"text": "dull", "label": "x"}])
    with serve(Plan(answer=explains)) as address:
        card = kdtool.generate(address, data, tmp_path / "out", style="rationale", answer="exact", keep_correct=True)
    # The prompt itself has an "a": both are answered, and one label is wrong.
    assert card["samples"] == {"count": 2, "kinds": {"label": 1, "rationale": 1}}
    label, rationale = samples(tmp_path / "out")
    assert label["messages"] == [
        {"role": "user", "content": "[label] a warm film"}, {"role": "assistant", "content": "positive"},
    ]  # fmt: skip
    assert rationale["messages"][1]["content"] == "The words are kind.\nSo it is good."


def test_demonstrations_are_drawn_by_the_seed_and_never_the_question_itself(tmp_path: Path) -> None:
    plan, data = Plan(), questions(tmp_path / "q.jsonl", 8)
    with serve(plan) as address:
        for seed in (0, 0, 1):
            kdtool.generate(address, data, tmp_path / f"out{seed}", style="icl", seed=seed, concurrency=1)
    assert len(plan.bodies) == 16
    shown = []
    for body in plan.bodies:
        *before, last = [message["content"] for message in body["messages"]]
        assert len(before) == 8
        assert len({*before[::2], last}) == 5
        shown.append(before)
    assert shown[:8] != shown[8:]
    assert len(samples(tmp_path / "out0")[0]["messages"]) == 2
    with pytest.raises(InputError, match="shows 4 questions with known answers, of which the data has 3"):
        kdtool.generate("http://127.0.0.1:9/v1#m", questions(data, 3), tmp_path / "o", style="icl")


def test_tasks_are_made_up_in_waves_and_are_new(tmp_path: Path) -> None:
    """The teacher repeats itself and its seeds; what is kept shares little with anything else that is."""
    verbs, things = ("Describe", "List", "Compare", "Explain"), ("rivers", "taxes", "bread", "clouds", "chess", "bees")

    def invents(messages: list[dict[str, str]], seed: int) -> str:
        if "Make up eight" not in messages[-1]["content"]:
            return f"Done: {messages[-1]['content']}"
        made = []
        for i in range(3):
            verb, one, other = verbs[(seed >> i) % 4], things[(seed >> 2 * i) % 6], things[(seed >> i) % 6]
            made.append(f"{verb} {one} {other} for {seed % 7919 + i} people")
        made += ["Draw a picture of a cat", "Sum it", made[0]]
        return "\n".join(f"{i}. {task}" for i, task in enumerate(made, 1))

    tasks = [{"instruction": f"Name {i} {thing} of the world that matter"} for i, thing in enumerate(things)]
    seeds = lines(tmp_path / "seeds.jsonl", tasks)
    plan, out = Plan(answer=invents), tmp_path / "out"
    with serve(plan) as address:
        # Stopped again and again, it comes to the same set as in one go.
        for most in range(5, 80, 7):
            card = kdtool.generate(address, seeds, out, style="instruct", count=20, max_requests=most, concurrency=3)
        asked = len(plan.bodies)
        whole = kdtool.generate(address, seeds, tmp_path / "whole", style="instruct", count=20)
    assert card["stopped"] is None
    assert set(plan.seen.values()) == {2}
    assert len(plan.bodies) == 2 * asked
    assert samples(out) == samples(tmp_path / "whole")
    assert whole["samples"]["count"] == 20
    assert whole["tasks_left_out"]["length"]
    assert whole["tasks_left_out"]["words that are not wanted"]
    made = [sample["messages"][0]["content"] for sample in samples(out)]
    texts = [*(task["instruction"] for task in tasks), *made]
    assert all(rouge_l(one, other) < 0.7 for i, one in enumerate(made, len(tasks)) for other in texts[:i])


# --- filters ------------------------------------------------------------------------------------------------------


def test_each_filter_leaves_out_its_own_and_counts_it(tmp_path: Path) -> None:
    bad = {
        "0": "", "1": "half \ud800 a character", "2": "one <|im_end|> two three", "3": "too short",
        "4": "again and again " * 9, "5": " ".join(f"w{i}" for i in range(20)), "6": "the very same words as these",
        "7": "The very same words, as these!",
    }  # fmt: skip
    test = lines(tmp_path / "test.jsonl", [{"question": " ".join(f"w{i}" for i in range(3, 18))}])
    data = lines(tmp_path / "q.jsonl", [{"question": "q 6" if i == 7 else f"q {i}"} for i in range(10)])
    plan = Plan(
        lambda question, times: "cut" if question == "q 8" else "",
        lambda messages, seed: bad.get(messages[-1]["content"][-1], f"all is well with {messages[-1]['content']}"),
    )
    with serve(plan) as address:
        card = kdtool.generate(
            address, data, tmp_path / "out", words=(3, 30), repetition=0.5, near_duplicates=0.8, not_in=test
        )
    counts = {each["name"]: each["before"] - each["after"] for each in card["filters"]}
    assert counts == {"cut": 1, "form": 2, "marks": 1, "words": 1, "repetition": 1, "duplicates": 1,
                      "near duplicates": 0, "test": 1}  # fmt: skip
    assert [sample["messages"][0]["content"] for sample in samples(tmp_path / "out")] == ["q 6", "q 9"]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| test | overlap with" in page
    assert "| 3 | 2 |" in page


def test_answers_are_outvoted(tmp_path: Path) -> None:
    data = questions(tmp_path / "q.jsonl", 30)
    with serve(Plan(answer=adds)) as address:
        card = kdtool.generate(address, data, tmp_path / "out", samples=5, answer="gsm8k", agree=0.6)
    (agree,) = [each for each in card["filters"] if each["name"] == "agree"]
    assert agree["after"] < agree["before"] == 150
    finals: dict[str, set[str]] = {}
    for sample in samples(tmp_path / "out"):
        finals.setdefault(sample["id"].split("/")[0], set()).add(sample["messages"][1]["content"].split("####")[1])
    assert all(len(each) == 1 for each in finals.values())


def test_a_page_shows_the_card_and_samples(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "taught"
    answer = Plan(answer=lambda messages, seed: f"<script>alert(1)</script> {adds(messages, 1)}")
    with serve(answer) as address:
        kdtool.generate(address, questions(tmp_path / "q.jsonl", 30), out, style="cot", price="1,1")
    found = kdtool.write_report([out])
    (document,) = found["sections"]
    assert (document["kind"], len(document["samples"])) == ("set", 10)
    assert sum(map(len, document["words"].values())) == 30
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "Answers of http://127.0.0.1" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    (out / "train.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="no generated set that can be read"):
        kdtool.write_report([out])


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [(["--keep-correct"], "how they are found, by --answer"), (["--agree", "0.5"], "--agree compares final answers"),
     (["--samples", "2", "--temperature", "0"], "all answers would be one"), (["--price", "1"], "such as 0.5,1.5"),
     (["--style", "nonesuch"], "Valid: answer, cot"), (["--answer", "("], "nor a regular expression"),
     (["--words", "9:1"], "no MIN:MAX"), (["--param", "stream=1"], "not for --param"),
     (["--param", "x"], "no NAME=VALUE"), (["--key-env", "NONE_SUCH"], "NONE_SUCH"),
     (["--demonstrations", "x.jsonl"], "draws none"), (["--data", "none.jsonl"], "no such file"),
     (["--teacher", "http://u:p@h/v1"], "holds a user")],
)  # fmt: skip
def test_bad_options_are_one_sentence_and_nothing_is_written(tmp_path: Path, given: list[str], why: str) -> None:
    data = questions(tmp_path / "q.jsonl", 2)
    done = call("generate", "--teacher", "http://127.0.0.1:9/v1#m", "--data", data, "--out", tmp_path / "o", *given)
    assert done.code == 2
    assert why in done.err
    assert not (tmp_path / "o").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("mine")
    with serve(Plan()) as address, pytest.raises(InputError, match="holds something else"):
        kdtool.generate(address, questions(tmp_path / "q.jsonl", 2), tmp_path)
    assert (tmp_path / "train.jsonl").read_text() == "mine"
