"""Networks: rows whatever the company, packed or padded; vocabularies that meet; parts of a teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from kdtool.engine.job import Loaded
from kdtool.engine.step import as_out
from kdtool.errors import InputError
from kdtool.tasks.language.data.chats import Writer
from kdtool.tasks.language.data.encode import tokenize
from kdtool.tasks.language.models import build as building
from kdtool.tasks.language.models.layout import first_fit
from kdtool.tasks.language.models.tokens import Tokens
from kdtool.tasks.language.models.vocabulary import common
from kdtool.tasks.task import Reading
from tests.tasks.language.small import LARGER, SIZES, TASK, chat, chats, recipe, saved, tokens

CPU = torch.device("cpu")


def opened(tmp_path: Path, **more: Any) -> tuple[Any, Any]:
    wanted = recipe(chats(tmp_path / "chats.jsonl"), **more)
    return wanted, TASK.open(wanted)


def batch_of(wanted: Any, data: Any, student: Any, size: int = 8) -> Loaded:
    reading = Reading(size, 0, CPU, train=True, channels_last=False)
    found: Loaded = next(iter(TASK.batches(data, data.train, wanted, [student], reading).epoch(0)))
    return found


def loss_and_gradient(network: Any, loaded: Loaded) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of a batch, and the gradient of all weights in a row."""
    network.zero_grad()
    logits = as_out(network(loaded.inputs), lambda x: x).logits
    loss = torch.nn.functional.cross_entropy(logits, loaded.labels)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])


def test_rows_are_what_a_plain_forward_says_of_the_token_before(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path)
    student = TASK.student(wanted, data)
    loaded = batch_of(wanted, data, student)
    logits = as_out(student.tapped().eval()(loaded.inputs), lambda x: x).logits
    at = 0
    for index, rows in zip(range(loaded.samples), loaded.rows or [], strict=True):
        length = int(loaded.inputs["lengths"][index])
        ids = loaded.inputs["ids"][index, :length]
        whole = student.module(input_ids=ids[None]).logits[0]
        own = loaded.inputs["next"][index, :length]
        torch.testing.assert_close(logits[at : at + rows], whole[own], rtol=1e-4, atol=1e-5)
        assert loaded.labels[at : at + rows].tolist() == ids[1:][own[:-1]].tolist()
        at += rows
    assert at == len(logits)


def test_packed_samples_give_the_loss_and_gradient_of_padded_ones(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path)
    student = TASK.student(wanted, data)
    loaded = batch_of(wanted, data, student)
    padded = loss_and_gradient(student.tapped().double(), loaded)
    student.packing = 100
    network = student.tapped().double()
    assert len(network.laid(loaded.inputs).ids) < loaded.samples
    packed = loss_and_gradient(network, loaded)
    for one, other in zip(padded, packed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("packing", [False, True])
def test_padding_and_other_samples_change_nothing(tmp_path: Path, packing: bool) -> None:
    wanted, data = opened(tmp_path, data__packing=packing)
    student = TASK.student(wanted, data)
    loaded = batch_of(wanted, data, student)
    network = student.tapped().double().eval()
    before = as_out(network(loaded.inputs), lambda x: x).logits
    rows, lengths = loaded.rows or [], loaded.inputs["lengths"]
    # All padding, and all of the last sample.
    changed = copy.deepcopy(loaded.inputs)
    behind = torch.arange(changed["ids"].shape[1])[None] >= lengths[:, None]
    assert behind.any()
    changed["ids"][behind] = 7
    changed["ids"][-1] = 9
    after = as_out(network(changed), lambda x: x).logits
    kept = len(before) - rows[-1]
    assert torch.equal(before[:kept], after[:kept])
    assert not torch.allclose(before[kept:], after[kept:])
    # A prompt is no row, but what comes behind it sees it.
    changed["ids"][0, 1] = 9
    moved = as_out(network(changed), lambda x: x).logits
    assert not torch.allclose(after[: rows[0]], moved[: rows[0]])
    assert torch.equal(after[rows[0] : kept], moved[rows[0] : kept])


def test_sequences_hold_as_much_as_a_sample_may(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path, data__packing=True, data__max_length=200)
    student = TASK.student(wanted, data)
    loaded = batch_of(wanted, data, student)
    lengths = loaded.inputs["lengths"].tolist()
    laid = student.tapped().laid(loaded.inputs)
    assert laid.ids.shape[0] <= -(-sum(lengths) // (200 - max(lengths)))
    assert laid.ids.shape[1] <= 200


def windowed(folder: Path, window: int) -> Path:
    """Write a network whose layers look so many tokens back."""
    from transformers import MistralConfig, MistralForCausalLM

    words = tokens()
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(vocab_size=words.size, sliding_window=window, **SIZES)).save_pretrained(folder)
    words.library.save_pretrained(folder)
    return folder


def test_a_network_that_looks_only_so_far_back_is_not_packed(tmp_path: Path) -> None:
    given = {"student__model": str(windowed(tmp_path / "model", 16)), "student__model_args": {}}
    wanted, data = opened(tmp_path, **given, data__packing=True, data__max_length=64)
    with pytest.raises(InputError, match=r"looks 16 tokens back.*data.max_length=64"):
        TASK.student(wanted, data)
    wanted, data = opened(tmp_path, **given, data__packing=True, data__max_length=16)
    student = TASK.student(wanted, data)
    loaded = batch_of(wanted, data, student)
    packed = loss_and_gradient(student.tapped().double(), loaded)
    student.packing = 0
    for one, other in zip(packed, loss_and_gradient(student.tapped().double(), loaded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_samples_go_where_there_is_room_first() -> None:
    assert first_fit([3, 5, 2, 4], 6) == [(2, 0), (0, 0), (1, 4), (1, 0)]


def test_taps_are_rows(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path)
    student = TASK.student(wanted, data)
    network = student.tapped({"deep": [0, -1], "last": "embedding", "half": 0.5})
    loaded = batch_of(wanted, data, student)
    out = as_out(network.eval()(loaded.inputs), lambda x: x)
    assert {role: [tuple(t.shape) for t in tap] if isinstance(tap, list) else tuple(tap.shape)
            for role, tap in out.taps.items()} == {
        "deep": [(len(loaded.labels), 16)] * 2, "last": (len(loaded.labels), 16), "half": (len(loaded.labels), 16),
    }  # fmt: skip
    torch.testing.assert_close(student.module.lm_head(out.taps["last"]), out.logits)


def test_a_tap_without_a_value_for_each_token_is_refused(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path)
    with pytest.raises(InputError, match="a value for every token"):
        TASK.student(wanted, data).tapped({"x": "model.rotary_emb"}).shapes()


# --- vocabularies -------------------------------------------------------------------------------------------------


def with_more(found: Tokens, *extra: str) -> Tokens:
    library = copy.deepcopy(found.library)
    library.add_tokens(list(extra))
    return Tokens(library)


def test_padded_vocabularies_are_cut_to_what_all_know() -> None:
    one, other = tokens(), with_more(tokens(), "<new>", "<newer>")
    assert common(one, [("T", other)])[0] == one.size
    size, notes = common(other, [("T", one)])
    assert size == one.size
    assert notes == [
        f"teacher T has {one.size:,} tokens and the student {other.size:,}: the first {one.size:,} are the same, and "
        "the others are left out"
    ]


def test_a_swapped_token_is_refused() -> None:
    import json

    from tokenizers import Tokenizer

    plain = json.loads(tokens().library.backend_tokenizer.to_str())
    vocabulary = plain["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    library = copy.deepcopy(tokens().library)
    library._tokenizer = Tokenizer.from_str(json.dumps(plain))
    with pytest.raises(InputError, match=r"2 tokens differ.*student.from_teacher.layers"):
        common(tokens(), [("T", Tokens(library))])


def test_a_padded_teacher_teaches_and_a_padded_student_is_cut(tmp_path: Path) -> None:
    words = tokens()
    teacher = saved(tmp_path / "teacher", words, rows=words.size + 20)
    student = saved(tmp_path / "student", words, seed=1, rows=words.size + 4)
    wanted, data = opened(tmp_path, teacher__model=str(teacher), student__model=str(student), teacher__model_args={},
                          student__model_args={})  # fmt: skip
    built, (taught,) = TASK.student(wanted, data), TASK.teachers(wanted, data, False)
    assert built.num_classes == taught.num_classes == words.size
    assert built.module.get_input_embeddings().weight.shape[0] == words.size
    assert any("4 word vectors that no token has are cut off" in note for note in built.notes)
    assert as_out(taught.tapped()(built.dry_inputs(2)), lambda x: x).logits.shape[1] == words.size


def test_tokens_that_a_teacher_does_not_know_are_refused(tmp_path: Path) -> None:
    words = tokens()
    teacher = saved(tmp_path / "teacher", words)
    student = saved(tmp_path / "student", with_more(words, "rain"), rows=words.size + 1)
    with pytest.raises(InputError, match=r"its tokens, such as 'rain', are not in the"):
        opened(tmp_path, teacher__model=str(teacher), student__model=str(student), teacher__model_args={},
               student__model_args={})  # fmt: skip


def test_a_trained_student_keeps_its_tokenizer(tmp_path: Path) -> None:
    student = saved(tmp_path / "student", tokens())
    given = {"student__model": str(student), "student__model_args": {}, "student__tokenizer": "own"}
    with pytest.raises(InputError, match=r"was trained with another one.*student.weights=scratch"):
        opened(tmp_path, **given)
    wanted, data = opened(tmp_path, **given, student__weights="scratch")
    assert data.tokens.digest != tokens().digest
    assert TASK.student(wanted, data).origin == "scratch"


def test_a_tokenizer_without_anyone_to_take_it_from_is_trained(tmp_path: Path) -> None:
    _, data = opened(tmp_path)
    assert data.tokens.size == len(data.class_names) == 300
    teacher = saved(tmp_path / "teacher", tokens())
    _, other = opened(tmp_path, teacher__model=str(teacher), teacher__model_args={})
    assert other.tokens.digest == tokens().digest


# --- a part of the teacher ----------------------------------------------------------------------------------------


def cut(tmp_path: Path, **more: Any) -> tuple[Any, Any]:
    words = tokens()
    sizes = {**LARGER, "num_hidden_layers": 5}
    teacher = saved(tmp_path / "teacher", words, attention_bias=True, **sizes)  # type: ignore[arg-type]
    wanted, data = opened(tmp_path, teacher__model=str(teacher), teacher__model_args={}, student__model_args={}, **more)
    return TASK.student(wanted, data), TASK.teachers(wanted, data, False)[0]


def test_a_student_of_all_layers_is_its_teacher(tmp_path: Path) -> None:
    student, teacher = cut(tmp_path, student__from_teacher__layers=5)
    inputs = teacher.dry_inputs(2)
    ours, theirs = (as_out(each.tapped().eval()(inputs), lambda x: x).logits for each in (student, teacher))
    assert torch.equal(ours, theirs)


def test_layers_are_kept_evenly_spaced(tmp_path: Path) -> None:
    student, teacher = cut(tmp_path, student__from_teacher__layers=3)
    assert student.module.config.num_hidden_layers == 3
    for new, old in enumerate((0, 2, 4)):
        ours, theirs = (each.module.model.layers[i].state_dict() for each, i in ((student, new), (teacher, old)))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("layers 0, 2, 4 of teacher" in note for note in student.notes)


def test_what_is_cut_away_in_width_is_what_was_least_active(tmp_path: Path) -> None:
    student, teacher = cut(tmp_path, student__from_teacher__width=0.5)
    config = student.module.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (2, 1, 12)
    assert config.hidden_size == teacher.module.config.hidden_size
    # A teacher in whom all else is silent is not changed by leaving that out.
    with torch.no_grad():
        for ours, theirs in zip(student.module.model.layers, teacher.module.model.layers, strict=True):
            kept = [int((theirs.mlp.down_proj.weight[:, i, None] == ours.mlp.down_proj.weight).all(0).any())
                    for i in range(24)]  # fmt: skip
            assert sum(kept) == 12
            theirs.mlp.down_proj.weight[:, torch.tensor(kept) == 0] = 0.0
            first = torch.equal(theirs.self_attn.k_proj.weight[:8], ours.self_attn.k_proj.weight)
            theirs.self_attn.o_proj.weight[:, 16:] *= float(not first)
            theirs.self_attn.o_proj.weight[:, :16] *= float(first)
    inputs = teacher.dry_inputs(2)
    ours_, theirs_ = (as_out(each.tapped().eval()(inputs), lambda x: x).logits for each in (student, teacher))
    torch.testing.assert_close(ours_, theirs_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"student__from_teacher__layers": 9}, "has 5; valid: 1 to 5"),
        ({"student__from_teacher__layers": 2, "student__model": "llama-mini"}, "exclude one another"),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(tmp_path, **more)


def test_a_teacher_without_weights_has_no_part_to_give(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path, student__from_teacher__layers=1, student__model_args={})
    with pytest.raises(InputError, match="has no weights yet"):
        TASK.student(wanted, data)


# --- names --------------------------------------------------------------------------------------------------------


def test_names_and_sizes_that_are_wrong_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for more, message in (
        ({"student__model": "lama-tiny", "student__model_args": {}}, "lama-tiny"),
        ({"student__model_args": {"num_attention_heads": "two"}}, "'num_attention_heads': 'two'"),
        ({"student__model_args": {**SIZES, "hidden_size": -4}}, "'hidden_size': -4"),
        ({"student__model_args": {"hiden_size": 3}}, "Did you mean 'hidden_size'"),
        ({"student__weights": "pretrained"}, "has no pretrained weights"),
        ({"student__model": str(tmp_path / "none.gguf")}, "there is no file"),
        ({"student__model_args": {**SIZES, "max_position_embeddings": 32}}, "reads 32 tokens at most"),
    ):
        wanted, data = opened(tmp_path)
        wanted = recipe(wanted.data.name, **more)
        with pytest.raises(InputError, match=message):
            TASK.student(wanted, data)


def test_a_network_whose_head_is_not_its_last_word_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, data = opened(tmp_path)
    made = building.from_config

    def other(config: Any, request: Any) -> Any:
        module = made(config, request)
        module.lm_head.register_forward_hook(lambda _, __, out: out * 3 + torch.arange(out.shape[-1]))
        head = copy.deepcopy(module.lm_head)
        head._forward_hooks.clear()
        module.get_output_embeddings = lambda: head
        return module

    monkeypatch.setattr(building, "from_config", other)
    with pytest.raises(InputError, match="are not what its head makes"):
        TASK.student(wanted, data)


def test_a_student_says_how_it_starts(tmp_path: Path) -> None:
    wanted, data = opened(tmp_path)
    (note,) = TASK.student(wanted, data).notes
    assert "guessing gives ln 300 = 5.70" in note
    assert "starts at 5." in note


def test_gemma_like_heads_are_applied_as_they_are(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    words, folder = tokens(), tmp_path / "gemma"
    torch.manual_seed(0)
    sizes = {**SIZES, "head_dim": 8, "final_logit_softcapping": 0.02}
    Gemma2ForCausalLM(Gemma2Config(vocab_size=words.size, **sizes)).save_pretrained(folder)
    words.library.save_pretrained(folder)
    wanted, data = opened(tmp_path, student__model=str(folder), student__model_args={})
    student = TASK.student(wanted, data)
    found = as_out(student.tapped().eval()(student.dry_inputs(2)), lambda x: x).logits
    assert float(found.detach().abs().max()) < 0.02


def test_writing_is_the_students_own_template(tmp_path: Path) -> None:
    words = tokens()
    words.library.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}" \
        "{% if add_generation_prompt %}[assistant] {% endif %}"  # fmt: skip
    found, _ = tokenize([chat("How?", "wet")], Writer(Tokens(words.library), "auto", "completion"), 50)
    assert words.library.decode(found.ids) == "[user] How? [assistant] wet "
