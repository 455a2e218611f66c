"""What the first minutes on a GPU check, each a function of a Lab; `--toy` computes the same on a CPU, at toy size."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.gpu_lab import Check, CheckFailedError, Lab
from bench.gpu_parity import parity
from bench.gpu_parts import padded_form, timed, useful_flops, wait
from decode.generate import transcripts
from decode.options import DecodeOptions
from model.batch import Batch
from model.encoders.waveform import normalise
from model.packing import packed_attention, packed_lengths
from model.slam_asr import SlamAsr
from train.dist.collectives import join_world
from train.engine.engine import Engine, start_deepspeed
from train.recipe.config import OptimConfig

SLOTS = 4
"""Micro-batches of a step of the engine."""
LR = 1e-4
HEADS = [  # query heads, key heads, width of one, causal, window
    (16, 16, 80, False, None),  # HuBERT-XL
    (16, 16, 64, False, None),  # HuBERT-large
    (32, 4, 64, True, None),  # TinyLlama
    (32, 32, 128, True, None),  # of 7B
    (8, 2, 64, True, 100),
]
ATTENTION_WITHIN = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Of outputs and gradients, relative: norm of the difference from float64 on the CPU."""


def environment(lab: Lab) -> None:
    """Which GPU, and what PyTorch does there by default."""
    name = torch.cuda.get_device_name(lab.device) if lab.on_gpu else "CPU"
    lab.say(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    attention, convolutions = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.allow_tf32
    lab.say(f"attention by cuDNN allowed: {attention}, convolutions in TF32: {convolutions}")


def attention(lab: Lab) -> None:
    """The packed attention's one kernel for lengths that vary, against float64 on the CPU: outputs and gradients."""
    lengths = torch.tensor([3, 64, 200, 1, 129] if lab.toy else [3, 625, 1000, 1, 129])
    wrong = []
    for heads in HEADS:
        for dtype, within in ATTENTION_WITHIN.items():
            off = _attention_off(lab.device, lengths, dtype, *heads)
            said = "{}/{} heads of {}, causal {}, window {}".format(*heads) + f", {str(dtype).removeprefix('torch.')}"
            lab.say(f"{said}: off by {off[0]:.1e}, gradients by {', '.join(f'{one:.1e}' for one in off[1:])}")
            wrong += [said] if not max(off) <= within else []
    if wrong:
        raise CheckFailedError(f"too far from float64: {wrong[0]}" + f" and {len(wrong) - 1} more" * (len(wrong) > 1))


def _attention_off(
    device: torch.device, lengths: Tensor, dtype: torch.dtype, heads: int, keys: int, width: int, causal: bool,
    window: int | None,
) -> list[float]:  # fmt: skip
    """Relative errors of the output and of the gradients by query, key and value."""
    tokens = int(lengths.sum())
    module: Any = SimpleNamespace(is_causal=causal, num_key_value_groups=heads // keys)
    parts = [torch.randn(1, n, tokens, width, device=device, dtype=dtype) for n in (heads, keys, keys)]
    weights = torch.randn(1, tokens, heads, width, device=device, dtype=dtype)

    def compute(inputs: list[Tensor], weights: Tensor) -> list[Tensor]:
        inputs = [part.requires_grad_() for part in inputs]
        packing = packed_lengths(lengths, weights.device)
        query, key, value = inputs
        out, _ = packed_attention(module, query, key, value, None, packing, sliding_window=window)
        return [out.detach(), *torch.autograd.grad(out, inputs, weights)]

    exact = compute([part.cpu().double() for part in parts], weights.cpu().double())
    return [_off(one, other) for one, other in zip(compute(parts, weights), exact, strict=True)]


def _off(one: Tensor, exact: Tensor) -> float:
    return float((one.cpu().double() - exact).norm() / exact.norm())


def equal_to_the_cpu(lab: Lab) -> None:
    """Loss and gradient of tiny models as on the CPU in float32; what TF32 does to them is told, not judged."""
    agreed = parity(lab.say, lab.device)
    if lab.on_gpu:
        lab.say("with TF32, which is not judged:")
        parity(lab.say, lab.device, tf32=True)
    if not agreed:
        raise CheckFailedError("loss or gradient is not that of the CPU")


def front_end(lab: Lab) -> None:
    """The encoder at lengths never seen, for which cuDNN plans anew, and at the same again; its convolutions alone."""
    lab.model.eval()
    encoder, batch = lab.encoder, lab.batch(7).to(lab.device)
    assert batch.audio is not None
    audio, cu = batch.audio, batch.audio_cu
    if lab.on_gpu and not encoder.packed:
        raise CheckFailedError("the encoder reads its utterances one by one on this GPU")
    cold = 1e3 * timed(lab.device, lambda: encoder(audio, cu))
    warm = lab.milliseconds(lambda: encoder(audio, cu))
    lab.say(f"encoder of {lab.utterances} utterances: new lengths {cold:.0f} ms, the same again {warm:.0f} ms")
    waves = [normalise(wave).to(encoder.model.dtype)[None] for wave in audio.split(cu.diff().tolist())]
    row, convolutions = torch.cat(waves, 1), encoder.model.feature_extractor
    with torch.no_grad():
        singly = lab.milliseconds(lambda: [convolutions(wave) for wave in waves])
        lab.say(
            f"convolutions one by one {singly:.1f} ms, in one row {lab.milliseconds(lambda: convolutions(row)):.1f} ms"
        )
        frames = torch.randn(1, encoder.out_len(row.shape[1]), encoder.dim, device=lab.device, dtype=row.dtype)
        placed = lab.milliseconds(lambda: encoder.model.encoder.pos_conv_embed(frames))
    lab.say(f"positional convolution in one row {placed:.1f} ms")


def step(lab: Lab) -> None:
    """Forward and backward of a micro-batch: no wait for the GPU in it, how long it takes, and what takes longest."""
    model, batch = lab.model.train(), lab.batch(8).to(lab.device)

    def forward_backward() -> None:
        model(batch).loss.backward()

    forward_backward()
    with _no_sync_allowed(lab):
        forward_backward()
    lab.say("no wait for the GPU in forward and backward")
    exact = lab.milliseconds(forward_backward)
    with _tf32_products():
        fast = lab.milliseconds(forward_backward)
    encoded = model.encoded(batch)
    cached = lab.milliseconds(lambda: model(encoded).loss.backward())
    rate = useful_flops(model, batch) / exact / 1e9
    lab.say(f"forward and backward {exact:.0f} ms: {rate:,.1f} TFLOP/s")
    lab.say(f"with the adapter in TF32 {fast:.0f} ms, from frames {cached:.0f} ms")
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * lab.on_gpu
    with torch.profiler.profile(activities=activities) as profile:
        forward_backward()
        wait(lab.device)
    sort = "self_cuda_time_total" if lab.on_gpu else "self_cpu_time_total"
    lab.say(profile.key_averages().table(sort_by=sort, row_limit=18, max_name_column_width=50))
    model.adapter.zero_grad(set_to_none=True)


@contextmanager
def _no_sync_allowed(lab: Lab) -> Iterator[None]:
    """Whatever reads from the GPU within raises."""
    if lab.on_gpu:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if lab.on_gpu:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _tf32_products() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def engine(lab: Lab) -> None:
    """A step of the product's engine; what DeepSpeed's timer would add, and how memory is fragmented."""
    world = join_world()
    start_deepspeed(world, 60.0)
    try:
        ours = Engine(lab.model, OptimConfig(lr=LR, max_steps=1), {"zero_optimization": {"stage": 0}}, SLOTS, world)
        batches = [lab.batch(20 + slot) for slot in range(SLOTS)]
        targets = sum(batch.num_targets for batch in batches)

        def take() -> None:
            for batch in batches:
                ours.backward(ours.forward(batch).loss, targets)
            ours.step(LR)

        for _ in range(2):  # AdamW makes its moments in the first; DeepSpeed's timer waits from the third on
            take()
        without = lab.milliseconds(take, 3)
        ours._deepspeed.tput_timer.config.enabled = True
        with_timer = lab.milliseconds(take, 3)
    finally:
        dist.destroy_process_group()
    lab.say(f"a step of {SLOTS} micro-batches {without:.0f} ms; with DeepSpeed's throughput timer {with_timer:.0f} ms")
    if lab.on_gpu:
        stats = torch.cuda.memory_stats()
        peaks = (stats[f"{what}_bytes.all.peak"] / 2**30 for what in ("allocated", "reserved"))
        lab.say("allocated {:.1f} GiB, reserved {:.1f}".format(*peaks) + f", {stats['num_alloc_retries']} retries")


def padded_attention(lab: Lab) -> None:
    """Padded micro-batches of many widths, with attention by cuDNN and without: NaN gradients (pytorch#196678)."""
    padded = padded_form(lab.model).train()
    broken = []
    for on in (True, False):
        with _cudnn_attention(on):
            start = time.perf_counter()
            seeds = range(40, 42 if lab.toy else 52)
            bad = sum(not _finite_gradients(padded, lab.batch(seed, 6).to(lab.device)) for seed in seeds)
            wait(lab.device)
        seconds = time.perf_counter() - start
        lab.say(f"padded, cuDNN {'allowed' if on else 'off'}: {len(seeds)} widths in {seconds:.1f} s, with NaN: {bad}")
        broken += [f"cuDNN {'allowed' if on else 'off'}: {bad} of {len(seeds)} gradients are not finite"] * bool(bad)
    if broken:
        raise CheckFailedError(broken[0])


def _finite_gradients(model: SlamAsr, batch: Batch) -> bool:
    model.adapter.zero_grad(set_to_none=True)
    model(batch).loss.backward()
    return all(bool(p.grad.isfinite().all()) for p in model.adapter.parameters() if p.grad is not None)


@contextmanager
def _cudnn_attention(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(on)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def decoding(lab: Lab) -> None:
    """Greedy search, a token of 8 utterances at a time, with attention by cuDNN and without."""
    batch, tokens = lab.batch(60, 8), 8 if lab.toy else 64
    transcripts(lab.model, batch, DecodeOptions(max_new_tokens=2, strict=True))
    for on in (True, False):
        with _cudnn_attention(on):
            seconds = timed(
                lab.device, lambda: transcripts(lab.model, batch, DecodeOptions(max_new_tokens=tokens, strict=True))
            )
        lab.say(f"decoding, cuDNN {'allowed' if on else 'off'}: {1e3 * seconds / tokens:.0f} ms a token")


CHECKS = [
    Check("environment", environment, 30.0),
    Check("attention", attention),
    Check("parity", equal_to_the_cpu),
    Check("front_end", front_end),
    Check("step", step),
    Check("engine", engine),
    Check("padded_attention", padded_attention),
    Check("decoding", decoding),
]
