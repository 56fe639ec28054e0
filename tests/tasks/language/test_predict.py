"""``kdtool predict`` on prompts: lines, tables, standard input, what is cut off, and what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import kdtool
from kdtool.errors import InputError
from tests.running import Done, call
from tests.tasks.language.small import chats
from tests.tasks.language.test_run import distil

ASKED = ["How are snow and grass? (3)", "How are coal and the sky?", "How is it?"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("predict")
    return distil(place / "run", chats(place / "chats.jsonl"), "--method", "none", "--lr", "0.03", epochs=5)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "new.txt"
    path.write_text("\n\n".join(ASKED) + "\n", encoding="utf-8")
    return path


def document(*arguments: object) -> list[dict[str, Any]]:
    done = call("predict", *arguments, "--json")
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)["predictions"]
    return found


def by_transformers(folder: Path, text: str, new_tokens: int) -> str:
    """Return what plain transformers writes greedily after a text, its end token being the last."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    written = model.generate(**ids, max_new_tokens=new_tokens, do_sample=False)[0, ids.input_ids.shape[1] :]
    return str(tokenizer.decode(written, skip_special_tokens=True)).strip()


def test_it_writes_what_transformers_writes_after_the_chat_template(run: Done, lines: Path) -> None:
    found = document(run.folder, lines, "--new-tokens", 9, "--batch-size", 2)
    assert [(each["input"], each["line"]) for each in found] == list(zip(ASKED, (1, 3, 5), strict=True))
    for each in found:
        turn = f"<|im_start|>user\n{each['input']}<|im_end|>\n<|im_start|>assistant\n"
        assert each["completion"] == by_transformers(run.folder / "student", turn, 9) != ""
        assert not each["finished"]
    assert document(run.folder / "student", lines, "--task", "language", "--new-tokens", 9) == found


def test_a_network_of_plain_texts_goes_on_with_the_prompt_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("\n\n".join(f"It is white, and {number} are green." for number in range(30)), encoding="utf-8")
    plain = distil(tmp_path / "plain", text, "--method", "none", epochs=1).folder
    ((found),) = kdtool.predict(plain, samples=["It is"], new_tokens=5)
    assert found.completion == by_transformers(plain / "student", "It is", 5)
    ((asked),) = kdtool.predict(plain, samples=["It is"], new_tokens=5, overrides=["data.template=chat"])
    assert asked.completion != found.completion


def test_tables_messages_and_samples_are_one(run: Done, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED[0]}]
    rows = {"prompt": ASKED[0], "question": ASKED[0], "messages": turns[1:]}
    said = []
    for name, cell in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({name: cell}) + "\n", encoding="utf-8")
        said.append([each["completion"] for each in document(run.folder, path, "--new-tokens", 6)])
    assert said[0] == said[1] == said[2]
    both = list(kdtool.predict(run.folder, samples=[ASKED[0], turns[1:], turns], new_tokens=6))
    assert both[0].completion == both[1].completion == said[0][0] != both[2].completion


def test_csv_and_a_table_for_people(run: Done, lines: Path) -> None:
    done = call("predict", run.folder, lines, "--new-tokens", 4, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [(row["line"], row["input"], row["finished"]) for row in rows] == [
        ("1", ASKED[0], "false"), ("3", ASKED[1], "false"), ("5", ASKED[2], "false")
    ]  # fmt: skip
    done = call("predict", run.folder, lines, "--new-tokens", 4)
    assert "completion" in done.out
    assert done.out.count("cut off") == len(ASKED)


def test_what_cannot_be_asked_is_told_and_left_out(run: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = b"How is it?\n\xff\n<|im_start|>system\nHow is " + b"it and " * 900 + b"?\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    done = call("predict", run.folder, "-", "--new-tokens", 4, "--json")
    assert done.code == 0, done.err
    assert [each["line"] for each in json.loads(done.out)["predictions"]] == [1]
    assert json.loads(done.out)["left_out"] == 3
    assert "line 2: it is not UTF-8" in done.err
    assert "line 3: it holds '<|im_start|>'" in done.err
    assert "line 4: its" in done.err
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("\n", encoding="utf-8")
    assert call("predict", run.folder, nothing).code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--top", "2"], "--top"),
        (["--weights", "a.safetensors"], "--weights"),
        (["data.max_length=4"], "data.template"),
        (["no-such-file.txt"], "no-such-file.txt"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Done, lines: Path, more: list[str], said: str) -> None:
    done = call("predict", run.folder, lines, *more)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_other_tasks_refuse_what_only_writing_networks_take(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="new-tokens"):
        next(kdtool.predict("test_resnet", [str(tmp_path)], task="images", new_tokens=3))
