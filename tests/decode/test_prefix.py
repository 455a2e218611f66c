"""Sharing the common part of the prompts does not change the tokens, for every family of LLMs."""

from typing import Any

import pytest
import torch

from decode.generate import transcripts
from decode.options import DecodeOptions
from decode.prefix import LEAST_PREFIX, Prompts, prompt_cache
from decode.search import Search, search
from model.adapters import AdapterSpec, build_adapter
from model.batch import pack
from model.llm import load_llm
from model.lora import LoraSpec, add_lora, lora_parameters
from model.prompt import Prompt
from model.slam_asr import SlamAsr
from tests.model.test_llm import FAMILIES, save_llm
from tests.tiny import tiny_models

TEMPLATE = (
    "the cat sat on a mat, on a mat: <speech> :"  # with few tokens after the speech, so that narrow windows reach it
)
DIM, PLACES = 12, 5  # width of a frame; utterances that batches are drawn from
BATCHES = 12
"""Per family, more than 200 in all; 200 per family were tried once."""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("models"))[1]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory, tokenizer_folder) -> SlamAsr:
    """A model for features, with a random LLM of the family."""
    torch.manual_seed(0)
    options = {**FAMILIES[request.param], "vocab_size": 300}
    source = save_llm(tmp_path_factory.mktemp(request.param), request.param, options, tokenizer_folder)
    llm = load_llm(source)
    adapter: Any = build_adapter(AdapterSpec("concat", 2, 16, 0.0, DIM, 32))
    with torch.no_grad():
        adapter.linear2.weight.mul_(30.0)  # so that the speech matters as much as the words around it
    return SlamAsr(None, adapter, llm, Prompt(llm.tokenizer, TEMPLATE)).eval()


def utterances(numbers):
    features = [3 * torch.randn(6 + 5 * i, DIM, generator=torch.Generator().manual_seed(i)) for i in numbers]
    return pack([f"u{i}" for i in numbers], [""] * len(features), [[]] * len(features), features=features)


def found(model: SlamAsr, numbers, beams: int) -> dict:
    answers = transcripts(model, utterances(numbers), DecodeOptions(beams, 4, nbest=beams))
    texts = [tuple(text for text, _ in answer.alternatives) for answer in answers]
    rows = zip(numbers, answers, texts, strict=True)
    return {i: (a.tokens, a.note, own, round(sum(a.logprobs), 3)) for i, a, own in rows}


@pytest.mark.parametrize("beams", [1, 3])
def test_batching_never_changes_an_utterances_tokens(family, beams):
    """Random batches in random order, with a shared prefix where possible."""
    alone = {i: found(family, [i], beams)[i] for i in range(PLACES)}
    assert len({rounded for *_, rounded in alone.values()}) > PLACES / 2, "the speech makes no difference"
    random = torch.Generator().manual_seed(0)
    for _ in range(BATCHES if beams == 1 else BATCHES // 6):
        count = int(torch.randint(2, PLACES + 1, (1,), generator=random))
        numbers = torch.randperm(PLACES, generator=random)[:count].tolist()
        for i, (*exact, rounded) in found(family, numbers, beams).items():
            assert (*exact,) == alone[i][:3] and rounded == pytest.approx(alone[i][3], abs=2e-3)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_the_same_with_and_without_sharing(family, beams, monkeypatch):
    """Where a layer's window is narrower than the batch, the prefix is not shared, as padding would count in it."""
    embeds, mask = family.prompt_embeds(utterances(range(PLACES)))
    prompts = Prompts(embeds, mask, len(family.prompt.prefix_ids))
    assert prompts.prefix >= LEAST_PREFIX
    windows = [part for part in (family.llm.config, *family.llm.modules()) if getattr(part, "sliding_window", None)]
    for wide in (False, True):
        for part in windows if wide else ():
            monkeypatch.setattr(part, "sliding_window", 512)
        moved, cache = prompt_cache(family.llm, prompts, beams, 7)
        assert (moved.embeds is prompts.embeds) == bool(windows and not wide) and (cache is None) == (
            bool(windows and not wide) and beams == 1
        )
        same_search(family, prompts, beams)


def same_search(model: SlamAsr, prompts: Prompts, beams: int) -> None:
    bounds = torch.full((PLACES,), 6)
    shared, single = (
        search(model.llm, prompts, bounds, Search(model.prompt.eos_id, model.prompt.pad_id, beams, share=share))
        for share in (True, False)
    )
    for [one, *_], [other, *_] in zip(shared, single, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_lora_is_part_of_what_is_shared(tokenizer_folder):
    pytest.importorskip("peft")
    llm = load_llm(str(tokenizer_folder))
    torch.manual_seed(0)
    add_lora(llm.model, LoraSpec(4, 64.0, ("q_proj", "v_proj"), 0.0))
    adapter = build_adapter(AdapterSpec("concat", 2, 16, 0.0, DIM, llm.fingerprint["dim"]))
    model = SlamAsr(None, adapter, llm, Prompt(llm.tokenizer, TEMPLATE)).eval()
    embeds, mask = model.prompt_embeds(utterances(range(PLACES)))
    prompts, bounds = Prompts(embeds, mask, len(model.prompt.prefix_ids)), torch.full((PLACES,), 6)
    how = Search(model.prompt.eos_id, model.prompt.pad_id)
    before = search(model.llm, prompts, bounds, how)
    with torch.no_grad():
        for weights in lora_parameters(model.llm).values():
            weights.normal_(0, 0.3)
    for beams in (1, 3):
        same_search(model, prompts, beams)
    assert [one.logprobs for [one] in before] != [one.logprobs for [one] in search(model.llm, prompts, bounds, how)]
