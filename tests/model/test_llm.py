"""LLM families: logits at chosen places are the LLM's own, or the LLM is refused."""

from pathlib import Path

import pytest
import torch

from model.errors import UserError
from model.llm import embedding_dim, load_llm, logits_at
from model.loading import freeze
from tests.tiny import LLM_DIM, tiny_models

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"num_key_value_heads": 2}
FAMILIES = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 4},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8, "tie_word_embeddings": True},
    "phi": {},
    "phi3": GROUPED,
    "gemma": {**GROUPED, "head_dim": 8},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}
REFUSED = {
    "gemma2": {**GROUPED, "head_dim": 8},  # caps its logits at 30
    "cohere": {**GROUPED, "logit_scale": 0.25},
    "granite": {**GROUPED, "logits_scaling": 8.0},
}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))[1]


def save_llm(folder: Path, family: str, options: dict, tokenizer_folder: Path) -> str:
    """A random LLM of that family with a tokenizer beside it (that need not fit: nothing is tokenised here)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64} if family == "gpt2" else SIZES
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **IDS, **options)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer_folder / name).read_bytes())
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_are_the_llms_own_and_left_padding_changes_nothing(tmp_path, tokenizer_folder, family):
    torch.manual_seed(0)
    llm = load_llm(save_llm(tmp_path / family, family, FAMILIES[family], tokenizer_folder)).model
    assert embedding_dim(llm) == 32 and not llm.training and not any(p.requires_grad for p in llm.parameters())
    long, short = torch.randint(3, 64, (9,)), torch.randint(3, 64, (6,))
    embed = llm.get_input_embeddings()
    whole = [llm(inputs_embeds=embed(ids[None]), use_cache=False).logits[0] for ids in (long, short)]
    embeds = torch.stack([embed(long), torch.cat([torch.zeros(3, 32), embed(short)])])
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
    rows, columns = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 8, 3, 5, 8])
    ours = logits_at(llm, embeds, mask, columns, rows)
    expected = torch.stack([whole[0][2], whole[0][8], whole[1][0], whole[1][2], whole[1][5]])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", REFUSED)
def test_an_llm_whose_logits_would_be_others_is_refused(tmp_path, tokenizer_folder, family):
    source = save_llm(tmp_path / family, family, REFUSED[family], tokenizer_folder)
    with pytest.raises(UserError, match=rf"{family}' changes its logits after .* \(soft-capping or scaling\)"):
        load_llm(source)


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
