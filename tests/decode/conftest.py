"""One tiny recogniser, and the same utterances as audio and as cached features, for all tests of this folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data_prep.audio.decode import decode, encode_flac
from data_prep.shards.index import ShardIndex, shard_name, write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter
from model.batch import cumulative
from model.slam_asr import SlamAsr
from tests.tiny import tiny_recogniser

SAMPLES = (16_000, 48_000, 400, 8_000, 3_000, 120_000)  # the third is too short for one speech embedding
TEXTS = ("The cat.", "sat on a mat", "a", "the mat", "", "cat")
SPEAKERS = ("anna", "ben", "anna", "ben", "anna", "ben")


class Tiny(NamedTuple):
    model: SlamAsr
    adapter: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    return Tiny(*tiny_recogniser(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def model(tiny) -> SlamAsr:
    return tiny.model


@pytest.fixture(scope="session")
def audio_folder(tmp_path_factory) -> Path:
    """Six utterances in two shards."""
    folder = tmp_path_factory.mktemp("audio")
    media = [encode_flac(noise(seed, count)) for seed, count in enumerate(SAMPLES)]
    _write(folder, "audio", "flac", media, [0] * len(SAMPLES), {"input": "x"})
    return folder


@pytest.fixture(scope="session")
def feature_folder(tmp_path_factory, model) -> Path:
    """The same utterances as float16 frames."""
    folder = tmp_path_factory.mktemp("features")
    waves = [torch.from_numpy(decode(encode_flac(noise(seed, count)))) for seed, count in enumerate(SAMPLES)]
    frames = [model.encoder(wave, cumulative([len(wave)]))[0].half() for wave in waves]
    media = [one.numpy().tobytes() for one in frames]
    fingerprint = model.encoder.fingerprint() | {"feature_dtype": "float16"}
    _write(folder, "features", "f16", media, [len(one) for one in frames], fingerprint)
    return folder


@pytest.fixture
def audio_index(audio_folder) -> ShardIndex:
    return read_index(audio_folder)


@pytest.fixture
def feature_index(feature_folder) -> ShardIndex:
    return read_index(feature_folder)


def noise(seed: int, samples: int) -> np.ndarray:
    """float32 [samples] that swells, different for each seed."""
    wave = np.random.default_rng(seed).standard_normal(samples) * np.linspace(0.01, 0.2, samples)
    return wave.clip(-1, 1).astype(np.float32)


def _write(
    folder: Path, kind: str, extension: str, media: Sequence[bytes], frames: Sequence[int], fingerprint: dict
) -> None:
    infos = []
    for number, part in enumerate((range(0, 4), range(4, len(media)))):
        with ShardWriter(folder / shard_name(number)) as writer:
            for i in part:
                meta = {"text": TEXTS[i], "seconds": SAMPLES[i] / 16000, "speaker": SPEAKERS[i], "language": "en"}
                meta |= {"task": "transcribe", "meta": {"room": "hall"}}
                writer.add(f"u{i}", extension, media[i], meta, SAMPLES[i], frames[i])
            infos.append(writer.close())
    write_index(folder, kind, infos, fingerprint, {}, {})
