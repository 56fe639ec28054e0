"""A teacher with a context: what it reads, what its rows then are, and that nothing else takes them for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

pytest.importorskip("transformers")

from kdtool.errors import InputError
from kdtool.tasks.language.context import Context
from kdtool.tasks.language.data.batches import padded
from kdtool.tasks.language.models.tokens import TEMPLATE
from kdtool.tasks.task import Reading
from tests.running import call
from tests.tasks.language.small import TASK, chats, recipe, saved, tokens
from tests.tasks.language.test_run import SMALL, distil

DEFAULT = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind. It is blue.<|im_end|>\n{% endif %}"
"""What templates such as SmolLM2's put in front of a chat that has no system message."""


class World:
    """A teacher with a context, its data, and a batch of them."""

    def __init__(self, folder: Path, data: Path | None = None, **more: Any):
        self.recipe = recipe(data or chats(folder / "chats.jsonl"), **more)
        self.data = TASK.open(self.recipe)
        (self.teacher,) = TASK.teachers(self.recipe, self.data, False)
        self.student = TASK.student(self.recipe, self.data)
        self.network: Any = TASK.adapt(self.teacher.tapped(), self.teacher, self.student).eval()
        reading = Reading(8, 0, torch.device("cpu"), train=True)
        self.batches = TASK.batches(self.data, self.data.train, self.recipe, [self.student], reading)

    def batch(self, count: int = 12) -> Any:
        return next(iter(self.batches.view(0, [torch.arange(count)])))

    def rows(self) -> list[Tensor]:
        """Return each sample's logits, of a batch."""
        batch = self.batch()
        with torch.no_grad():
            return list(self.network(batch.inputs)[0].whole().split(batch.rows))

    def text(self, position: int) -> str:
        return str(self.data.tokens.library.decode(self.seen(position)))

    def seen(self, position: int) -> list[int]:
        inputs = self.batch().inputs
        found: dict[str, Tensor] = self.teacher.context.of(inputs)  # type: ignore[attr-defined]
        return found["ids"][position, : int(found["lengths"][position])].tolist()

    def direct(self, before: list[int], position: int, drop: int = 0) -> Tensor:
        """Return what the plain network says where a sample's learnt tokens follow, of one sequence and no padding."""
        ids, learnt = self.data.train.samples[self.data.train.rows[position]]
        whole = torch.tensor([[*before, *ids[drop:].tolist()]])
        places = torch.from_numpy(learnt).nonzero().squeeze(1) + len(before) - drop - 1
        with torch.no_grad():
            logits: Tensor = self.teacher.module(whole).logits
        return logits[0, places, : self.teacher.num_classes]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("packing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_are_those_of_a_direct_forward_of_prefix_prompt_and_completion(tmp_path: Path, packing: bool) -> None:
    prefix = write(tmp_path / "prefix.txt", "Say how it is.\n")
    world = World(tmp_path, teacher__prefix=str(prefix), data__packing=packing)
    library = world.data.tokens.library
    before = library("<|im_start|>system\nSay how it is.<|im_end|>\n", add_special_tokens=False).input_ids
    for position, rows in enumerate(world.rows()):
        torch.testing.assert_close(rows, world.direct(before, position), atol=1e-5, rtol=1e-5)
        assert world.seen(position)[: len(before)] == before
    plain = World(tmp_path)
    assert not any(torch.allclose(a, plain.direct([], i), atol=1e-3) for i, a in enumerate(world.rows())), (
        "the teacher does not read its prefix"
    )


@pytest.mark.slow
def test_a_templates_own_beginning_stands_once_and_is_replaced_by_the_prefix(tmp_path: Path) -> None:
    found = tokens()
    found.library.chat_template = DEFAULT + TEMPLATE
    folder = saved(tmp_path / "model", found)
    more = {"student__model": str(folder), "teacher__model": str(folder), "student__model_args": {},
            "teacher__model_args": {}, "data__max_length": 200}  # fmt: skip
    own = "<|im_start|>system\nBe kind. It is blue.<|im_end|>\n"
    count = len(found.library(own, add_special_tokens=False).input_ids)
    prefix = write(tmp_path / "prefix.txt", "Then say: it is blue.")
    world = World(tmp_path, teacher__prefix=str(prefix), **more)
    before = found.library("<|im_start|>system\nThen say: it is blue.<|im_end|>\n", add_special_tokens=False).input_ids
    for position, rows in enumerate(world.rows()):
        torch.testing.assert_close(rows, world.direct(before, position, count), atol=1e-5, rtol=1e-5)
    shown = World(tmp_path, teacher__demonstrations=2, **more)
    assert shown.text(0).count("Be kind.") == 1
    assert shown.text(0).startswith(own)


@pytest.mark.parametrize("template", ["auto", pytest.param("plain", marks=pytest.mark.slow)])
def test_no_sample_is_shown_before_itself_and_others_see_what_the_seed_draws(tmp_path: Path, template: str) -> None:
    world = World(tmp_path, teacher__demonstrations=3, data__template=template)
    count = len(world.data.train)
    inputs = world.batch(count).inputs
    demonstrated, asked = set(), []
    for position in range(count):
        sample = world.data.raw[int(world.data.train.samples.sources[world.data.train.rows[position]])]
        question = sample.turns[0][1]
        text = world.data.tokens.library.decode(world.teacher.context.before(  # type: ignore[attr-defined]
            inputs["ids"][position, : int(inputs["lengths"][position])].tolist()))  # fmt: skip
        assert text.count("How are") == 4
        assert text.count(question) == 1
        assert text.rindex("How are") == text.index(question)
        asked.append(text[: text.index(question)])
    demonstrated = set(asked)
    assert len(demonstrated) == 4, "the usual three, and for three samples three others"
    seen = world.teacher.context.of(inputs)  # type: ignore[attr-defined]
    for position in range(count):
        own = inputs["ids"][position, : int(inputs["lengths"][position])].tolist()
        whole = world.teacher.context.before(own)  # type: ignore[attr-defined]
        assert seen["ids"][position, : int(seen["lengths"][position])].tolist() == whole
        assert int(seen["next"][position].sum()) == int(inputs["next"][position].sum())
    other = World(tmp_path, teacher__demonstrations=3, data__template=template, data__view_seed=5)
    assert other.teacher.context != world.teacher.context  # type: ignore[attr-defined]
    again = World(tmp_path, teacher__demonstrations=3, data__template=template, train__seed=5)
    assert again.teacher.context == world.teacher.context  # type: ignore[attr-defined]


def test_rows_of_plain_texts_begin_after_the_prefix(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts.txt", "\n\n".join(f"It is white, and {i} are green." for i in range(30)))
    prefix = write(tmp_path / "prefix.txt", "How it is:")
    world = World(tmp_path, texts, teacher__prefix=str(prefix))
    before = world.data.tokens.library("How it is:\n\n", add_special_tokens=False).input_ids
    for position, rows in enumerate(world.rows()):
        torch.testing.assert_close(rows, world.direct(before, position), atol=1e-5, rtol=1e-5)


def test_a_start_token_stands_in_front_of_the_prefix_and_predicts_nothing_twice() -> None:
    context = Context([1], [[1, 7, 8]])
    learnt = np.array([False, True, True])
    inputs = padded([(np.array([1, 20, 21]), learnt), (np.array([30, 31]), learnt[:2])])
    found = context.of(inputs)
    assert found["lengths"].tolist() == [5, 5]
    assert found["ids"][0, :5].tolist() == [1, 7, 8, 20, 21] == context.before([1, 20, 21])
    assert found["ids"][1, :5].tolist() == [1, 7, 8, 30, 31] == context.before([30, 31])
    assert found["next"].int().tolist()[0][:5] == [0, 0, 1, 1, 0]
    assert found["next"].int().tolist()[1][:5] == [0, 0, 0, 1, 0]


@pytest.mark.slow
def test_a_run_replays_what_it_would_compute_and_no_other_cache_is_taken_for_it(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl", 24)
    prefix = write(tmp_path / "prefix.txt", "Say how it is.")
    more = ["--method", "kd", "data.views=1", "cache.dtype=fp32"]
    plain = distil(tmp_path / "plain", data, *more, "cache.mode=build", epochs=1)
    live = distil(tmp_path / "live", data, *more, f"teacher.prefix={prefix}", "cache.mode=use", epochs=1)
    assert "teacher.context" in live.out + live.err
    kept = distil(tmp_path / "kept", data, *more, f"teacher.prefix={prefix}", "cache.mode=build", epochs=1)
    assert "reads" in kept.out
    assert kept.file() != plain.file()
    for name, tensor in load(live.file()).items():
        torch.testing.assert_close(load(kept.file())[name], tensor, atol=2e-4, rtol=1e-3)
    prefix.write_text("Say how it was.", encoding="utf-8")
    done = call("run", *SMALL, *more, "--data", data, "--epochs", 1, "teacher.train.epochs=1",
                f"teacher.prefix={prefix}", "cache.mode=require", "--out", tmp_path / "other")  # fmt: skip
    assert done.code == 2
    assert "teacher.context" in done.err


@pytest.mark.slow
def test_a_teacher_writes_after_its_context(tmp_path: Path) -> None:
    prefix = write(tmp_path / "prefix.txt", "Say how it is.")
    written = []
    for more in ({"teacher__prefix": str(prefix)}, {}):
        world = World(tmp_path, data__teacher_tokens=30, data__teacher_temperature=1.0, **more)
        batch = world.batch(8)
        found = TASK.writer(world.data, world.recipe, world.student).taught(world.network, batch)
        written.append(found.labels.tolist())
        assert torch.equal(found.inputs["ids"][:, :8], batch.inputs["ids"][:, :8]), "the student reads no prefix"
    assert written[0] != written[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"teacher__prefix": "no-such-file.txt"}, "no such file"),
        ({"teacher__demonstrations": 200}, "different prompts"),
        ({"teacher__demonstrations": 2, "data__loss_on": "all"}, "loss_on=all"),
        ({"teacher__demonstrations": 9, "teacher__model_args__max_position_embeddings": 256}, "tokens at most"),
    ],
)
def test_what_cannot_be_read_before_samples_is_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        World(tmp_path, **more)
