"""Trainings with dtypes, quantised weights, GGUF files and chat prompts of the recipe's choice."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.weights import load_for_decoding, read_card
from tests import ranks
from tests.model.tiny_gguf import OwnCache, write_gguf
from tests.train.runs import refuse, run
from train.parts import dtype_remarks
from train.recipe.config import load_config

TWO_STEPS = "optim.max_steps=2"


@pytest.fixture
def talking(ground, tmp_path) -> Path:
    """The tiny LLM, with a chat template."""
    folder = shutil.copytree(ground / "llm", tmp_path / "llm")
    turns = "{{ bos_token }}{% for turn in messages %}{{ turn.role + ': ' + turn.content + '\n' }}{% endfor %}"
    answer = "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(turns + answer)
    return folder


def test_an_llm_in_half_precision_trains_on_features_in_full(ground, straight, tmp_path):
    given = (f"data.train={ground / 'features'}", "model.dtype=bfloat16", "model.encoder_dtype=float32", TWO_STEPS)
    run(ground, tmp_path / "run", *given)
    card = read_card(tmp_path / "run" / "checkpoints" / "step-00000002")
    assert card.encoder["dtype"] == "float32" and card.utterance_seconds > 0
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight())[:2], rel=0.05)
    given = ("model.llm_dtype=bfloat16", "model.dtype=float32", TWO_STEPS)
    run(ground, tmp_path / "other", f"data.train={ground / 'features'}", *given)
    assert ranks.losses(tmp_path / "other") == ranks.losses(tmp_path / "run")


def test_a_quantised_llm_trains_with_every_stage_that_does_not_shard_it(ground, tmp_path):
    for name, dtype, world, stage in (("one", "nf4", 1, 0), ("two", "nf4", 2, 2), ("eight", "int8", 2, 1)):
        run(ground, tmp_path / name, f"model.llm_dtype={dtype}", TWO_STEPS, world=world, stage=stage)
    assert ranks.losses(tmp_path / "two") == pytest.approx(ranks.losses(tmp_path / "one"), rel=1e-4)
    assert len(ranks.losses(tmp_path / "eight")) == 2
    said = refuse(ground, tmp_path / "three", "model.llm_dtype=nf4", stage=3)
    assert "model.llm_dtype is nf4, and ZeRO-3 cannot shard quantised weights; use --deepspeed zero0" in said
    model = load_for_decoding(tmp_path / "two", llm_dtype="nf4")
    assert type(model.llm.model.layers[0].mlp.up_proj).__name__ == "LinearNF4"


def test_a_chat_prompt_is_stored_as_the_text_that_it_is(ground, talking, tmp_path):
    given = (f"model.llm={talking}", "model.prompt=chat", "model.chat_system=Listen.")
    run(ground, tmp_path / "run", *given, TWO_STEPS)
    text = "<s>system: Listen.\nuser: <speech> Transcribe speech to text.\nassistant:"
    assert read_card(tmp_path / "run" / "checkpoints" / "step-00000002").prompt == text
    shutil.copytree(tmp_path / "run", tmp_path / "literal", symlinks=True)
    shutil.copytree(tmp_path / "run", tmp_path / "other", symlinks=True)
    literal = json.dumps(text)
    recipe = (ground / "recipe.yaml").read_text().replace("model:\n", f"model:\n  prompt: {literal}\n")
    (tmp_path / "recipe.yaml").write_text(recipe)
    run(tmp_path, tmp_path / "literal", given[0], "optim.max_steps=3")  # the same run, its prompt written out
    said = refuse(ground, tmp_path / "other", *given[:2], "model.chat_user=Write <speech> down.", "optim.max_steps=3")
    assert f"model.prompt was {text!r}, is '<s>user: Write <speech> down." in said
    assert "model.chat_user is for prompt: chat" in refuse(ground, tmp_path / "no", "model.chat_user=<speech>")
    assert "the LLM's tokenizer has no chat template" in refuse(ground, tmp_path / "no", "model.prompt=chat")


def test_a_gguf_file_trains_and_decodes_as_the_folder_it_was_made_from(ground, straight, tmp_path, monkeypatch):
    monkeypatch.setenv("SLAM_ASR_CACHE", str(tmp_path / "cache"))
    file = write_gguf(ground / "llm", tmp_path / "tiny.gguf", add_bos=True)
    run(ground, tmp_path / "run", f"model.llm={file}", TWO_STEPS, world=2, before=OwnCache(str(tmp_path / "cache")))
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight())[:2], rel=0.05)  # bfloat16's
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert read_card(checkpoint).llm_path == "../../../tiny.gguf"
    (tmp_path / "tiny.gguf").rename(tmp_path / "elsewhere.gguf")
    model = load_for_decoding(tmp_path / "run")  # the folder in the cache has the same weights
    assert load_for_decoding(tmp_path / "run", llm=str(tmp_path / "elsewhere.gguf")).llm.config.hidden_size == 48
    assert model.llm.config.hidden_size == 48


def test_a_faster_dtype_is_named_where_the_cpu_has_it_and_the_llm_is_of_some_size(ground, monkeypatch):
    config, cpu = load_config(ground / "recipe.yaml", []), torch.device("cpu")
    with torch.device("meta"):
        small, large = torch.nn.Linear(100, 100), torch.nn.Linear(10_000, 10_000)

    def advised(able: str, dtype: str, llm: torch.nn.Module = large, device: torch.device = cpu) -> list[str]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True})
        return dtype_remarks(config.changed("model", llm_dtype=dtype), llm, device)

    for able in ("avx512_bf16", "amx_bf16"):
        assert "this CPU has instructions for bfloat16" in advised(able, "auto")[0]
        assert not advised(able, "bfloat16") and not advised(able, "float32") and not advised(able, "auto", small)
        assert not advised(able, "auto", device=torch.device("cuda")) and not advised("avx2", "auto")
        assert "set model.llm_dtype=float32" in advised(able, "float16")[0] and not advised("avx512_fp16", "float16")
