"""Silero VAD finds speech, for any block size; a missing package is a one-line error."""

import importlib.util

import numpy as np
import pytest

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.synth.espeak import speak
from decode.recordings import silero
from decode.recordings.segments import require_vad, split, whole
from decode.recordings.silero import FRAME, Silero
from model.errors import UserError

installed = pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="needs the extra vad")


def test_a_missing_package_is_a_one_line_error(monkeypatch):
    monkeypatch.setattr(silero, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'slam-asr\[vad\]'"):
        require_vad("silero")
    with pytest.raises(UserError, match="did you mean 'silero'"):
        require_vad("silera")


@installed
def test_speech_is_distinguished_from_noise_of_varying_level():
    rng = np.random.default_rng(0)
    speech = speak("the black train stopped under the bridge", "en-us")[0].astype(np.float32)
    time = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    beats = (0.1 * rng.standard_normal(len(time)) * (np.sin(2 * np.pi * time) > 0.9)).astype(np.float32)
    assert whole(beats).wave is not None and whole(beats, "silero").wave is None
    parts = [one for one in split([beats, speech, beats], 30.0, "silero") if one.wave is not None]
    assert len(parts) == 1
    assert len(beats) - 8000 < parts[0].speech[0] < parts[0].speech[1] < len(beats) + len(speech) + 8000


@installed
def test_frames_give_the_same_probabilities_in_blocks_of_any_size():
    frames = speak("good morning", "en-us")[0].astype(np.float32)
    frames = frames[: len(frames) // FRAME * FRAME].reshape(-1, FRAME)
    whole, parts = Silero(), Silero()
    by_parts = np.concatenate([parts(frames[i : i + 7]) for i in range(0, len(frames), 7)])
    np.testing.assert_allclose(whole(frames), by_parts, atol=1e-5)
    assert by_parts.max() > 0.9
