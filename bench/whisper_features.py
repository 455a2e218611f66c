"""Frames of Whisper's encoder on a CPU: a plain loop over transformers against `slam-asr prep features`' own passes.

`python -m bench.whisper_features [WHISPER [SHARDS]]`. WHISPER is a folder (without it: random weights of tiny.en's
shape), SHARDS a folder of audio shards (without it: invented speech). "before" is WhisperFeatureExtractor and the
encoder, float32, an utterance at a time in its window of 30 s. Ours reads, decodes, encodes and converts: padded and
cut windows in float32 and bfloat16. All take the same utterances in one process on one thread, interleaved. Printed
are utterances and frames a CPU second, and the ratio to "before"; then the cosine between frames and those of padded
float32 windows, over all frames and at their first and last of an utterance.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.corpora import audio_shards
from bench.timing import median, ratios, side_by_side, spread
from data_prep.features.encoding import encode_in_order
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index
from data_prep.shards.reader import wave_of
from data_prep.shards.tar import read_sample
from model.batch import cumulative
from model.encoders import Encoder, load_encoder

UTTERANCES, MINUTES, REPEATS = 12, 5.0, 3
EDGE = 5  # frames: 0.1 s
CASES = [(window, dtype) for window in ("padded", "cut") for dtype in ("float32", "bfloat16")]


def main(whisper: str | None = None, shards: str | None = None) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    index = read_index(Path(shards)) if shards else audio_shards(MINUTES)
    ids = np.linspace(0, len(index) - 1, min(UTTERANCES, len(index))).round().astype(int).tolist()
    with tempfile.TemporaryDirectory() as folder:
        source = whisper or random_whisper(Path(folder))
        encoders = {f"{window}, {dtype}": load_encoder(source, dtype=dtype, window=window) for window, dtype in CASES}
        works: dict[str, Callable[[], object]] = {"before": _plain(source, index, ids)}
    works |= {name: _ours(encoder, index, ids) for name, encoder in encoders.items()}
    taken = {name: [one.cpu for one in found] for name, found in side_by_side(works, REPEATS).items()}
    frames = sum(int(encoders["padded, float32"].out_len(int(index.samples[i]))) for i in ids)
    print(f"{len(ids)} utterances of {float(index.samples[ids].mean()) / 16_000:.1f} s on average")
    for name, seconds in taken.items():
        times = ratios(taken["before"], seconds)
        speeds = f"{len(ids) / median(seconds):.3g} utterances, {frames / median(seconds):,.0f} frames a CPU second"
        print(f"{name}: {speeds}; {median(times):.2f} x ({spread(times)})", flush=True)
    _compare(encoders, index, ids)


def random_whisper(folder: Path) -> str:
    """Random weights of the shape of openai/whisper-tiny.en, with its feature extractor, saved into `folder`."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    sizes: dict[str, Any] = {"d_model": 384, "vocab_size": 51_864}
    for end in ("encoder", "decoder"):
        sizes |= {f"{end}_layers": 4, f"{end}_attention_heads": 6, f"{end}_ffn_dim": 1536}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WhisperModel(WhisperConfig(**sizes)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return str(folder)


def _plain(source: str, index: ShardIndex, ids: list[int]) -> Callable[[], object]:
    from transformers import WhisperFeatureExtractor, WhisperModel

    extractor: Any = WhisperFeatureExtractor.from_pretrained(source)
    encoder = WhisperModel.from_pretrained(source, dtype=torch.float32).get_encoder().eval()

    @torch.inference_mode()
    def work() -> None:
        for i in ids:
            wave = _wave(index, i)
            given = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
            encoder(given).last_hidden_state[0, : -(-len(wave) // 320)].to(torch.float16).numpy().tobytes()

    return work


def _ours(encoder: Encoder, index: ShardIndex, ids: list[int]) -> Callable[[], object]:
    return lambda: list(encode_in_order(index, encoder, "float16", ids, threads=1))


def _wave(index: ShardIndex, i: int) -> Tensor:
    return wave_of(index, i, read_sample(index, i))


def _compare(encoders: dict[str, Encoder], index: ShardIndex, ids: list[int]) -> None:
    """Prints for each other case how near its frames are to those of padded float32 windows."""
    frames: dict[str, list[Tensor]] = {name: [] for name in encoders}
    for i in ids:
        wave = _wave(index, i)
        for name, encoder in encoders.items():
            frames[name].append(encoder(wave, cumulative([len(wave)]))[0].float())
    exact = frames.pop("padded, float32")
    for name, found in frames.items():
        near = [F.cosine_similarity(own, wanted, dim=1) for own, wanted in zip(found, exact, strict=True)]
        places = {"first": slice(None, EDGE), "middle": slice(EDGE, -EDGE), "last": slice(-EDGE, None)}
        means = {place: torch.cat([one[where] for one in near]).mean() for place, where in places.items()}
        said = ", ".join(f"{place} {float(mean):.3f}" for place, mean in means.items())
        lowest = float(torch.cat(near).min())
        print(f"{name}: cosine with padded float32 {float(torch.cat(near).mean()):.3f} ({said}; lowest {lowest:.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:3])
