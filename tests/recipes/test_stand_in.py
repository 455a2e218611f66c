"""The shipped stand-ins: they load as any checkpoint does, and know what an adapter needs them to know."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from data_prep.audio.decode import decode
from data_prep.synth import sentences
from data_prep.synth.corpus import write_corpus
from decode.recordings.files import transcribe_each
from decode.scoring.counts import score
from model.weights import load_for_decoding
from recipes.stand_in.spelling import AFTER_SPEECH, BEFORE_SPEECH
from recipes.stand_in.training import Schedule, train

STAND_IN = Path(__file__).parents[2] / "model" / "stand_in"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(STAND_IN / "llm")


@pytest.fixture(scope="module")
def llm():
    return AutoModelForCausalLM.from_pretrained(STAND_IN / "llm", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def encoder():
    return AutoModel.from_pretrained(STAND_IN / "encoder", dtype=torch.float32).eval()


@pytest.mark.parametrize(("name", "millions"), [("encoder", 2.2), ("llm", 1.9)])
def test_the_weights_are_fp16_safetensors_of_a_few_megabytes(name, millions):
    with safe_open(STAND_IN / name / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118, a safetensors file is no dict
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert sum(map(torch.Tensor.numel, tensors)) / 1e6 == pytest.approx(millions, abs=0.1)
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_every_weight_is_found_on_loading():
    for load, name in ((AutoModel, "encoder"), (AutoModelForCausalLM, "llm")):
        loaded = load.from_pretrained(STAND_IN / name, output_loading_info=True)
        assert isinstance(loaded, tuple) and not any(loaded[1].values())


def test_the_encoder_gives_one_frame_each_20_ms(encoder):
    config = json.loads((STAND_IN / "encoder" / "config.json").read_text())
    assert np.prod(config["conv_stride"]) == 320
    extract = AutoFeatureExtractor.from_pretrained(STAND_IN / "encoder")
    assert (extract.sampling_rate, extract.do_normalize, extract.return_attention_mask) == (16_000, True, False)
    wave = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    inputs = extract(wave, sampling_rate=16_000, return_tensors="pt")
    assert list(inputs) == ["input_values"]
    with torch.no_grad():
        assert encoder(**inputs).last_hidden_state.shape == (1, (32_000 - 400) // 320 + 1, 192)


def test_the_tokenizer_is_lossless_and_joins_with_a_space(tokenizer):
    rng = random.Random(0)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for text in [sentences.word_string(rng) for _ in range(50)] + ["zyx qqq o'o", "Grüße, 3 AM!"]:
        assert tokenizer.decode(ids(text)) == text
        assert ids(f"{AFTER_SPEECH} {text}") == ids(AFTER_SPEECH) + ids(f" {text}")
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, None}) == 4


@torch.no_grad()
def test_the_llm_copies_what_it_reads(tokenizer, llm):
    rng = random.Random(1)
    texts = [sentences.draw(rng, held_out=True) for _ in range(10)]
    right = 0
    for text in texts:
        prompt = BEFORE_SPEECH + text + AFTER_SPEECH
        inputs = tokenizer(prompt, return_tensors="pt")
        answer = llm.generate(**inputs, max_new_tokens=60, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer[-1] == tokenizer.eos_token_id
        right += tokenizer.decode(answer, skip_special_tokens=True).strip() == text
    assert right >= 8


def trained(steps, state):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)

    def loss(step):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    train(model, loss, Schedule(steps, peak=0.01, last=0.01, warmup=2), state, lambda: None)
    return model.weight


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path):
    trained(13, tmp_path / "stopped")
    torch.testing.assert_close(trained(30, tmp_path / "stopped"), trained(30, tmp_path / "whole"), rtol=0, atol=0)


def test_the_toy_adapter_reads_held_out_sentences_in_voices_it_never_heard(tmp_path, monkeypatch):
    monkeypatch.chdir(STAND_IN.parents[1])  # its adapter.json names the other two as the checkout does
    rows = [json.loads(line) for line in write_corpus(tmp_path, "test", 12, seed=5, workers=2).read_text().splitlines()]
    recogniser = load_for_decoding(STAND_IN / "adapter")
    waves = [decode(tmp_path / row["audio"]) for row in rows]
    heard = [recording.text for recording in transcribe_each(recogniser, [tmp_path / row["audio"] for row in rows])]
    assert score([row["text"] for row in rows], heard).wer < 0.25
    pause = np.random.default_rng(0).normal(0, 1e-4, 40_000).astype(np.float32)
    [joined] = transcribe_each(recogniser, [np.concatenate([part for wave in waves for part in (wave, pause)])])
    assert len(joined.segments) == len(rows), "a sentence each, though the recording was read as one"
    begin = 0.0
    for segment, wave in zip(joined.segments, waves, strict=True):
        end = begin + len(wave) / 16_000
        assert begin - 0.2 < segment.start < begin + 0.1 and end - 0.1 < segment.end < end + 0.2
        begin = end + 2.5
    # The adapter was trained without leading silence, so it makes more errors here.
    assert score([row["text"] for row in rows], [segment.text for segment in joined.segments]).wer < 0.45
