"""What is measured on: invented speech of LibriSpeech's lengths, its shards, and shards of random frames.

Nothing from outside is needed. espeak-ng's sentences are put together to utterances (2 to 17 s, 12.5 s on average, by
bench/lengths.py), with a breath of noise in between, and kept as real 16 kHz FLAC (about 19 kB a second).
Everything lies in build/bench and is made once; delete it to have it made again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.lengths import librispeech_like
from data_prep.audio import decode as audio
from data_prep.build.build import BuildOptions, build
from data_prep.importers.table import import_jsonl
from data_prep.shards.index import ShardIndex, shard_name, write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter
from data_prep.synth.corpus import installed, perform, script
from data_prep.utterance import Utterance, write_jsonl
from model.prompt import Prompt

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "bench"
LLM = ROOT / "model" / "stand_in" / "llm"
SHARD_SIZE = 40  # utterances: several shards even in minutes of speech
WIDTH = 1280  # of HuBERT-XL's frames
FRAMES_PER_SECOND = 50
PAUSE_SAMPLES = (4800, 16000)  # between sentences: 14 to 15 characters a second of audio, as people read


def speech(minutes: float) -> list[Utterance]:
    """`minutes` of speech in FLAC files, with their transcripts."""
    folder = PLACE / f"speech-{minutes:g}"
    manifest = folder / "utterances.jsonl"
    if not manifest.exists():
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        write_jsonl(manifest, _spoken(folder / "audio", minutes * 60))
    return list(import_jsonl(manifest))


def audio_shards(minutes: float) -> ShardIndex:
    """The same as audio shards."""
    out = PLACE / f"audio-{minutes:g}"
    build(speech(minutes), out, BuildOptions(shard_size=SHARD_SIZE))
    return read_index(out)


def feature_shards(minutes: float) -> ShardIndex:
    """Shards of random bfloat16 frames of the same lengths, texts and keys, 460 MB an hour."""
    source, out = audio_shards(minutes), PLACE / f"features-{minutes:g}"
    if not (out / "index.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        texts = {utterance.key: utterance.text for utterance in speech(minutes)}
        shards = []
        for number in range(len(source.shards)):
            with ShardWriter(out / shard_name(number)) as writer:
                for i in np.flatnonzero(source.shard == number).tolist():
                    samples = int(source.samples[i])
                    count = samples * FRAMES_PER_SECOND // audio.SAMPLE_RATE
                    frames = torch.randn(count, WIDTH, generator=generator).bfloat16()
                    meta = {"text": texts[source.key[i]], "seconds": samples / audio.SAMPLE_RATE, "language": "en"}
                    meta |= {"speaker": "", "task": "transcribe", "meta": {}}
                    media = frames.view(torch.uint8).numpy().tobytes()
                    writer.add(source.key[i], "bf16", media, meta, samples, count)
                shards.append(writer.close())
        write_index(out, "features", shards, {"feature_dtype": "bfloat16", "dim": WIDTH}, {}, {})
    return read_index(out)


def prompt() -> Prompt:
    """The stand-in LLM's."""
    from transformers import AutoTokenizer

    return Prompt(AutoTokenizer.from_pretrained(LLM))


def _spoken(folder: Path, seconds: float):
    """Utterances of about `seconds` in all, written as they are spoken."""
    random = np.random.default_rng(1)
    wanted = librispeech_like(round(seconds / 12.5), seed=0).seconds
    sentences = perform(script("train", 10 * len(wanted), 0, installed("train")))
    for number, length in enumerate(wanted):
        waves, texts = [], []
        while sum(map(len, waves)) < length * audio.SAMPLE_RATE:
            line, wave, _ = next(sentences)
            waves += [wave, np.zeros(random.integers(*PAUSE_SAMPLES), np.float32)]
            texts.append(line.text)
        wave = np.concatenate(waves)[: round(length * audio.SAMPLE_RATE)]
        wave = wave + random.normal(0, 0.0005, len(wave))
        path = folder / f"utterance-{number:05d}.flac"
        audio.write_flac(path, wave)
        yield Utterance(path.stem, str(path), " ".join(texts), duration=len(wave) / audio.SAMPLE_RATE, language="en")
