"""A .gguf file as teacher and student: read through transformers, and shipped as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("gguf")

from tests.running import call
from tests.tasks.language.small import SIZES, TASK, chats, recipe, tokens


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of two layers with a byte-level tokenizer, as llama.cpp has them."""
    import json

    import gguf

    path, words = tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokens()
    model = json.loads(words.library.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(words.size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([words.by_number[i] for i in range(words.size)])
    writer.add_token_types([3 if i < 2 else 1 for i in range(words.size)])  # control, normal
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in model["merges"]])
    end = words.library.eos_token_id
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(end)
    writer.add_chat_template(words.template)
    draw = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, draw.normal(0, 0.1, shape).astype(np.float32))

    wide, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    tensor("token_embd.weight", words.size, wide)
    writer.add_tensor("output_norm.weight", np.ones(wide, np.float32))
    for i in range(SIZES["num_hidden_layers"]):
        for name, rows, columns in (
            ("attn_q", wide, wide), ("attn_k", 8, wide), ("attn_v", 8, wide), ("attn_output", wide, wide),
            ("ffn_gate", inner, wide), ("ffn_up", inner, wide), ("ffn_down", wide, inner),
        ):  # fmt: skip
            tensor(f"blk.{i}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(wide, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_teaches_a_student_cut_out_of_it_that_opens_in_plain_transformers(
    file: Path, tmp_path: Path
) -> None:
    data = chats(tmp_path / "chats.jsonl")
    wanted = recipe(data, teacher__model=str(file), teacher__model_args={}, student__model_args={},
                    student__from_teacher__layers=2)  # fmt: skip
    opened = TASK.open(wanted)
    assert opened.tokens.size == tokens().size
    (teacher,) = TASK.teachers(wanted, opened, False)
    assert not teacher.needs_training
    out = tmp_path / "run"
    given = ["--task", "language", "--device", "cpu", "--batch-size", "8", "--epochs", "1", "--teacher", file]
    done = call("run", *given, "--data", data, "data.max_length=64", "student.from_teacher.layers=1", "--out", out,
                "teacher.check=off")  # fmt: skip
    assert done.code == 0, done.err
    import torch
    import transformers

    found = transformers.AutoModelForCausalLM.from_pretrained(out / "student")
    again = transformers.AutoTokenizer.from_pretrained(out / "student")
    assert found.config.num_hidden_layers == 1
    assert not hasattr(found.config, "quantization_config")
    assert again.chat_template == tokens().template
    ids = torch.tensor([again("How are you?").input_ids])
    assert found(ids).logits.shape[-1] == tokens().size
    evaluated = call("eval", file, "--task", "language", "--data", data, "data.max_length=64", "--json")
    assert evaluated.code == 0, evaluated.err


def test_without_its_package_a_gguf_file_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool.tasks.language.models.tokens.find_spec", lambda name: None)
    done = call("run", "--task", "language", "--teacher", file, "--data", chats(tmp_path / "chats.jsonl"), "--out",
                tmp_path / "run")  # fmt: skip
    assert done.code == 2
    assert "pip install 'kdtool[language]'" in done.err
