"""LLM families: logits at label places are transformers' own, padded and packed, or the LLM is refused."""

from pathlib import Path

import pytest
import torch

from model.errors import UserError
from model.llm import embedding_dim, load_llm
from model.llm.generation import require_generating
from model.llm.logits import logits_at, packed_logits_at
from model.loading import freeze
from model.packing import packed_lengths
from tests.tiny import LLM_DIM, tiny_models

CPU = torch.device("cpu")
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"initializer_range": 0.3}  # so that scales and caps change the logits by much
GROUPED = {**WIDE, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
BOTH = ["sliding_attention", "full_attention"]
FAMILIES = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 4},
    "qwen2": {**GROUPED, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen3": {**HEADS, "tie_word_embeddings": True},
    "phi": WIDE,
    "phi3": {**GROUPED, "sliding_window": 4},
    "gemma": HEADS,
    "gemma2": {**HEADS, "sliding_window": 3, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 0.5},
    "gemma3_text": {**HEADS, "sliding_window": 3, "layer_types": BOTH, "final_logit_softcapping": 2.0},
    "smollm3": {**GROUPED, "no_rope_layer_interval": 2},
    "granite": {
        **GROUPED,
        "logits_scaling": 8.0,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.1,
    },
    "olmo2": GROUPED,
    "cohere": {**GROUPED, "logit_scale": 0.25},
    "cohere2": {**GROUPED, "logit_scale": 0.25, "sliding_window": 3, "layer_types": BOTH},
    "nanochat": {**GROUPED, "final_logit_softcapping": 3.0},
    "minicpm3": {
        **WIDE,
        "num_key_value_heads": 4,
        "dim_model_base": 8,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
    "gpt_neox": WIDE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}
PADDED = {"gemma2": "soft-caps its attention logits"}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))[1]


def save_llm(folder: Path, family: str, options: dict, tokenizer_folder: Path) -> str:
    """A random LLM of that family with a tokenizer beside it (that need not fit: nothing is tokenised here)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64} if family == "gpt2" else SIZES
    config = AutoConfig.for_model(family, **{**sizes, **IDS, **options})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer_folder / name).read_bytes())
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_own_forward_padded_and_packed(tmp_path, tokenizer_folder, family):
    """At label places of two utterances, both longer than any sliding window here, against plain (eager) attention."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    source = save_llm(tmp_path / family, family, FAMILIES[family], tokenizer_folder)
    plain = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    loaded = load_llm(source)
    llm, embed = loaded.model, loaded.model.get_input_embeddings()
    assert embedding_dim(llm) == 32 and not llm.training and not any(p.requires_grad for p in llm.parameters())
    assert loaded.packs is (family not in PADDED) and PADDED.get(family, "") in (loaded.padded_because or "")
    long, short = torch.randint(3, 64, (9,)), torch.randint(3, 64, (6,))
    with torch.no_grad():
        whole = [plain(input_ids=ids[None], use_cache=False).logits[0] for ids in (long, short)]
    expected = torch.stack([whole[0][2], whole[0][8], whole[1][0], whole[1][2], whole[1][5]])
    embeds = torch.stack([embed(long), torch.cat([torch.zeros(3, 32), embed(short)])])
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
    rows, columns = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 8, 3, 5, 8])
    padded = logits_at(llm, embeds, mask, columns, rows)
    torch.testing.assert_close(padded, expected, rtol=1e-4, atol=1e-5)
    if loaded.packs:
        positions, packing = torch.cat([torch.arange(9), torch.arange(6)]), packed_lengths(torch.tensor([9, 6]), CPU)
        places = torch.tensor([2, 8, 9, 11, 14])
        packed = packed_logits_at(llm, embed(torch.cat([long, short])), positions, packing, places)
        torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)


def test_an_llm_whose_logits_would_be_others_is_refused(tmp_path, tokenizer_folder):
    """RecurrentGemma caps its logits by a key that no other family has."""
    options = {**WIDE, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8, "logits_soft_cap": 3.0}
    source = save_llm(tmp_path / "llm", "recurrent_gemma", options, tokenizer_folder)
    with pytest.raises(
        UserError, match=r"\(recurrent_gemma\) changes its logits around the output layer .* AFTER_HEAD"
    ):
        load_llm(source)


@pytest.mark.parametrize("family", ["qwen2_moe", "mistral"])
def test_a_window_that_the_attention_is_not_told_of_is_not_packed(tmp_path, tokenizer_folder, family):
    """Qwen2-MoE's layers get their window in the mask alone, which packed attention does not read."""
    options = {**GROUPED, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2}
    llm = load_llm(save_llm(tmp_path / family, family, options, tokenizer_folder))
    assert llm.packs is (family == "mistral") and llm.model.config.sliding_window == 4096


def test_a_family_that_does_not_name_the_embeddings_that_it_takes_generates_all_the_same():
    """As transformers' Gemma 3 of 4B and more, whose checkpoints have a vision tower."""
    from transformers import AutoModelForCausalLM, Gemma3Config, OpenAIGPTConfig

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config={**SIZES, **IDS, **HEADS}, vision_config={**vision, "image_size": 28})
    model = freeze(AutoModelForCausalLM.from_config(config))
    own = model.generation_config
    require_generating(model, "gemma3")
    ids = torch.arange(3, 9)[None]
    embeds, options = model.get_input_embeddings()(ids), {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(inputs_embeds=embeds, **options), model.generate(ids, **options)[:, 6:])
    assert model.generation_config is own
    ids_alone = freeze(AutoModelForCausalLM.from_config(OpenAIGPTConfig(n_embd=32, n_layer=1, n_head=2)))
    with pytest.raises(UserError, match=r"LLM 'gpt' \(openai-gpt\) does not generate from embeddings"):
        require_generating(ids_alone, "gpt")


def test_an_llm_is_known_by_its_weights_in_any_precision(tokenizer_folder, tmp_path):
    one, other = load_llm(str(tokenizer_folder)), load_llm(str(tokenizer_folder), dtype="bfloat16")
    assert one.fingerprint == other.fingerprint and other.model.dtype == torch.bfloat16
    assert one.fingerprint["family"] == "llama" and one.fingerprint["dim"] == LLM_DIM
    with torch.no_grad():
        freeze(one.model).lm_head.weight[0, 0] += 1
    one.model.save_pretrained(tmp_path)
    one.tokenizer.save_pretrained(tmp_path)
    assert load_llm(str(tmp_path)).fingerprint != one.fingerprint


def test_a_folder_that_is_no_llm_is_refused_in_one_line(tmp_path, tokenizer_folder):
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "config.json").write_text('{"model_type": "hubert"}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / "words" / name).write_bytes((tokenizer_folder / name).read_bytes())
    cases = {"nowhere": "there is no such folder", "empty": "the folder needs config.json", "words": "safetensors"}
    cases["speech"] = "speech' is a speech model .*'hubert'.*model.llm.*--llm"
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            load_llm(str(tmp_path / name))
        assert "\n" not in str(caught.value)
