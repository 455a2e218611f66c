"""Whisper's log-mel spectrogram against WhisperFeatureExtractor, and its windows of 30 s."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import cumulative
from model.encoders import load_encoder
from model.encoders.whisper import WhisperEncoder
from tests.tiny_encoders import reference, tiny_encoder

WINDOW = 480_000  # samples


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return tiny_encoder(tmp_path_factory.mktemp("whisper"), "whisper", seconds=30)


def speech(samples: int) -> Tensor:
    """Voiced syllables with pauses between them, quiet noise below."""
    time, random = np.arange(samples) / 16_000, np.random.default_rng(samples)
    pitch = 2 * math.pi * np.cumsum(120 + 20 * np.sin(2 * math.pi * 0.7 * time)) / 16_000
    voiced = sum(np.sin(n * pitch) / n for n in range(1, 20))
    loudness = np.clip(np.sin(2 * math.pi * 2.3 * time), 0, 1) * (np.sin(2 * math.pi * 0.2 * time) > -0.5)
    return torch.from_numpy(0.1 * voiced * loudness + 1e-4 * random.standard_normal(samples)).float()


WAVES = {
    "speech": speech(150_000),
    "long speech": speech(WINDOW),
    "silence": torch.zeros(16_000),
    "nearly silence": torch.full((16_000,), 1e-6),
    "one sample": torch.tensor([0.5]),
    "very short": speech(160) + 0.01,
    "a click at the end": torch.cat([torch.zeros(3199), torch.ones(1)]),
    "loud": 0.99 * torch.sign(speech(40_000)),
    "all but a window": speech(WINDOW - 1),
    "up to where the transform ends with the window": speech(WINDOW - 399),
}


@pytest.mark.parametrize("bins", [80, 128])
def test_the_spectrogram_is_that_of_the_feature_extractor(tmp_path, bins):
    from transformers import AutoFeatureExtractor

    source = tiny_encoder(tmp_path, "whisper", seconds=30, num_mel_bins=bins)
    encoder, extractor = load_encoder(source), AutoFeatureExtractor.from_pretrained(source)
    assert isinstance(encoder, WhisperEncoder)
    whole = encoder.log_mel(list(WAVES.values()))
    for (name, wave), in_batch in zip(WAVES.items(), whole, strict=True):
        wanted = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0]
        assert wanted.shape == (bins, 3000)
        for ours in (in_batch, encoder.log_mel([wave])[0]):
            torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("window", ["padded", "cut"])
@pytest.mark.parametrize("samples", [WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 320, WINDOW + 321])
def test_what_is_longer_than_a_window_is_cut_at_every_30_seconds(source, window, samples):
    encoder, wave = load_encoder(source, window=window), speech(samples)
    frames, frame_cu = encoder(wave, cumulative([samples]))
    assert len(frames) == encoder.out_len(samples) == math.ceil(samples / 320) == int(frame_cu[1])
    own = [encoder(part, cumulative([len(part)]))[0] for part in wave.split(WINDOW)]
    assert torch.equal(frames, torch.cat(own))
    torch.testing.assert_close(frames, reference(source, wave, window == "cut")[1], rtol=1e-4, atol=1e-5)


def test_cut_and_padded_differ_unless_the_window_is_full(source):
    padded, cut = (load_encoder(source, window=window) for window in ("padded", "cut"))
    for samples, same in ((100_000, False), (WINDOW, True)):
        wave, cu = speech(samples), cumulative([samples])
        assert torch.equal(padded(wave, cu)[0], cut(wave, cu)[0]) == same
    assert padded.fingerprint()["window_seconds"] == 30
