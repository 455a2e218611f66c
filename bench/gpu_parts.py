"""What the GPU bench computes on: pairs of random weights made where they are used, and shards of noise."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.flops import adapter_flops, encoder_flops, llm_flops
from bench.lengths import Lengths
from bench.toys import Toy, configs, make_text, make_tokenizer
from data_prep.audio import decode as audio
from data_prep.shards.index import ShardIndex, shard_name, write_index
from data_prep.shards.opening import read_index
from data_prep.shards.tar import ShardWriter
from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch
from model.encoders import Encoder, random_encoder
from model.llm import Llm, try_packing
from model.loading import freeze
from model.prompt import DEFAULT_TEMPLATE, Prompt
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr

LOUDNESS = 0.005
"""Of the noise: FLAC then takes some 19 kB a second, as of read speech."""
SHARD_SIZE = 100  # utterances


def make_pair(toy: Toy, device: torch.device, dtype: torch.dtype) -> SlamAsr:
    """A recogniser of this shape, its weights drawn on the device: nothing is downloaded, nothing is on disk."""
    from transformers import AutoModelForCausalLM

    encoder_config, llm_config = configs(toy)
    torch.manual_seed(0)
    encoder = random_encoder(encoder_config, dtype=dtype, device=device)
    with device:
        llm_model: Any = freeze(AutoModelForCausalLM.from_config(llm_config, dtype=dtype))
    tokenizer = make_tokenizer()
    llm = Llm(llm_model, tokenizer, {"weights": "random"}, try_packing(llm_model))
    adapter = build_adapter(
        AdapterSpec("concat", 5, toy.hidden, 0.0, encoder.dim, llm_model.get_input_embeddings().embedding_dim)
    )
    return SlamAsr(encoder, adapter, llm, Prompt(tokenizer, DEFAULT_TEMPLATE)).to(device)


def useful_flops(model: SlamAsr, batch: Batch) -> float:
    """Of the encoder (not for cached frames), adapter and LLM, on the tokens that there are."""
    speech, targets = model.speech_tokens(batch).numpy(), batch.target_cu.diff().numpy()
    tokens = len(model.prompt.prefix_ids) + speech + len(model.prompt.suffix_ids) + targets - 1
    flops = adapter_flops(model.adapter.spec, speech) + llm_flops(model.llm.config, tokens, targets)
    if batch.audio is not None and model.encoder is not None:
        flops = flops + encoder_flops(model.encoder.model.config, batch.audio_cu.diff().numpy())
    return float(flops.sum())


def audio_shards(folder: Path, lengths: Lengths) -> ShardIndex:
    """Noise as FLAC."""
    random = np.random.default_rng(0)

    def media(seconds: float) -> tuple[bytes, int, int]:
        wave = random.standard_normal(int(seconds * SAMPLE_RATE), np.float32) * LOUDNESS
        return audio.encode_flac(wave), len(wave), 0

    return _write(folder, "audio", "flac", {}, lengths, media)


def feature_shards(folder: Path, lengths: Lengths, encoder: Encoder) -> ShardIndex:
    """Random frames in bfloat16, as wide and as many as `encoder` would give."""
    generator = torch.Generator().manual_seed(0)

    def media(seconds: float) -> tuple[bytes, int, int]:
        samples = int(seconds * SAMPLE_RATE)
        frames = torch.randn(encoder.out_len(samples), encoder.dim, generator=generator).bfloat16()
        return frames.view(torch.uint8).numpy().tobytes(), samples, len(frames)

    return _write(folder, "features", "bf16", {"feature_dtype": "bfloat16", "dim": encoder.dim}, lengths, media)


def _write(
    folder: Path,
    kind: str,
    extension: str,
    fingerprint: dict[str, Any],
    lengths: Lengths,
    media: Callable[[float], tuple[bytes, int, int]],
) -> ShardIndex:
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    shards = []
    for number, first in enumerate(range(0, len(lengths), SHARD_SIZE)):
        with ShardWriter(folder / shard_name(number)) as writer:
            for i in range(first, min(first + SHARD_SIZE, len(lengths))):
                data, samples, frames = media(float(lengths.seconds[i]))
                text = make_text(int(lengths.characters[i]), random)
                meta = {"text": text, "seconds": samples / SAMPLE_RATE, "language": "en", "speaker": ""}
                writer.add(f"noise-{i}", extension, data, meta | {"task": "transcribe", "meta": {}}, samples, frames)
            shards.append(writer.close())
    write_index(folder, kind, shards, fingerprint, {}, {})
    return read_index(folder)


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 20) -> float:
    """What the device reaches in a square product: the peak that utilisation is held against."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left.matmul(right)
    seconds = timed(device, lambda: [left.matmul(right) for _ in range(repeats)])
    return 2 * size**3 * repeats / seconds


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds on the wall, the device's own work waited for."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def padded_form(model: SlamAsr) -> SlamAsr:
    """The same recogniser, sharing all weights, that pads the LLM's input."""
    llm = Llm(model.llm, model.prompt.tokenizer, {})
    return SlamAsr(model.encoder, model.adapter, llm, model.prompt, layout="padded")


@dataclass(frozen=True)
class Scale:
    """How much the GPU bench does."""

    pairs: tuple[str, ...]
    """Names in bench.toys.TOYS."""
    utterances: int
    budgets: tuple[int, ...]
    """Tokens a micro-batch."""
    seconds: float
    """Measured for each pair, source and budget."""
    matmul: int


GPU = Scale(("TinyLlama", "7B"), 480, (2000, 4000, 8000, 16_000, 32_000, 64_000), 6.0, 8192)
TOY = Scale(("tiny",), 12, (600, 1200), 0.3, 512)
