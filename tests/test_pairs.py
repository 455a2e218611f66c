"""One contract for every encoder with every adapter, and for every LLM with LoRA: they learn, frames stand for audio,
packed is padded, and what was saved is what was trained."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from model.adapters import ADAPTERS, adapter_spec, build_adapter
from model.batch import Batch, pack
from model.encoders import load_encoder
from model.llm import load_llm
from model.lora import LoraSpec, add_lora, find_targets
from model.prompt import DEFAULT_TEMPLATE, Prompt
from model.slam_asr import SlamAsr
from model.weights import AdapterCard, load_for_decoding, save_adapter
from tests.model.test_llm import FAMILIES, save_llm
from tests.tiny import tiny_models
from tests.tiny_encoders import HUBERTS, OTHERS, tiny_encoder

OWN = {"qformer": {"queries": 2}, "transformer": {"layers": 1}}
STEPS, LR = 10, 3e-3
own_warnings = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's, given a mask


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))[1]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("encoders")
    return cache(lambda family: tiny_encoder(folder, family))


def recogniser(encoder: str, layer: str | None, llm: str, adapter: str, rank: int = 0) -> tuple[SlamAsr, AdapterCard]:
    """New, and the card that it is saved with."""
    torch.manual_seed(0)
    speech, language, lora = load_encoder(encoder, layer), load_llm(llm), None
    settings = {"type": adapter, "stack": 4, "hidden": 32, "dropout": 0.0, "match_norm": True, **OWN.get(adapter, {})}
    defaults = {"layers": 2, "heads": 8, "queries": 1}
    spec = adapter_spec(defaults | settings, speech.fingerprint(), language.model)
    if rank:
        lora = LoraSpec(rank, 8.0, find_targets(language.model, ["auto"]), 0.0)
        add_lora(language.model, lora)
    model = SlamAsr(speech, build_adapter(spec), language, Prompt(language.tokenizer, DEFAULT_TEMPLATE))
    card = AdapterCard(spec, speech.fingerprint(), encoder, language.fingerprint, llm, DEFAULT_TEMPLATE, lora=lora)
    return model, card


def audio() -> Batch:
    """Three utterances, one of them longer than the window of the tiny Whispers, a second."""
    generator = torch.Generator().manual_seed(1)
    waves = [0.1 * torch.randn(n, generator=generator) for n in (9_000, 21_000, 14_321)]
    return pack(["a", "b", "c"], ["", "", ""], [[5, 9, 1], [7, 1], [11, 12, 13, 1]], waves=waves)


def train(model: SlamAsr, batch: Batch) -> list[float]:
    optimizer, losses = torch.optim.AdamW(list(model.trained.values()), lr=LR), []
    model.train()
    for _ in range(STEPS):
        loss = model(batch).loss / batch.num_targets
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.trained.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def check(model: SlamAsr, card: AdapterCard, folder: Path) -> None:
    """Trained on audio; then saved, opened again, and compared."""
    batch = audio()
    losses = train(model, batch)
    assert losses[-1] < losses[0]
    folder.mkdir()
    save_adapter(folder, model.trained, card)
    opened = load_for_decoding(folder)
    with torch.no_grad():
        loss = model.eval()(batch).loss
        assert torch.equal(opened(batch).loss, loss)
        assert torch.equal(opened(opened.encoded(batch)).loss, loss)
        padded = SlamAsr(opened.encoder, opened.adapter, _like(opened), opened.prompt, layout="padded")
        torch.testing.assert_close(padded(batch).loss, loss, rtol=1e-4, atol=1e-4)
        assert torch.equal(opened.prompt_embeds(batch)[0], model.prompt_embeds(batch)[0])
        assert opened.speech_tokens(batch).tolist() == opened.adapter(*_frames(opened, batch))[1].diff().tolist()


def _like(model: SlamAsr) -> Any:
    from model.llm import Llm

    return Llm(model.llm, model.prompt.tokenizer, {})


def _frames(model: SlamAsr, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = model.encoded(batch)
    assert encoded.features is not None
    return encoded.features, encoded.feature_cu


@own_warnings
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("family", [*HUBERTS, *OTHERS])
def test_every_encoder_with_every_adapter(encoder_folder, llm_folder, tmp_path, family, adapter):
    layer = "weighted:1-2" if adapter == "swiglu" else None
    check(*recogniser(encoder_folder(family), layer, str(llm_folder), adapter), tmp_path / "adapter")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_llm_with_lora(encoder_folder, llm_folder, tmp_path, family):
    torch.manual_seed(3)
    options = {"vocab_size": 300, **FAMILIES[family]}
    llm = save_llm(tmp_path / "llm", family, options, llm_folder)
    check(*recogniser(encoder_folder("whisper"), None, llm, "concat", rank=4), tmp_path / "adapter")
