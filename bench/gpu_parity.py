"""Whether a GPU computes what a CPU does: loss and gradient of tiny models, against float32 on the CPU."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu_parts import padded_form
from bench.lengths import in_the_wild
from bench.toys import TOYS, Spoken, make_speech, open_recogniser, write_models
from bench.ways import ours
from model.slam_asr import SlamAsr

TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (1e-2, 5e-2)}
"""Relative, of the loss and of the gradient's norm of difference."""


def parity(say: Callable[[str], None], device: torch.device, tf32: bool = False) -> bool:
    """Says how far each way on `device` lies from float32 on the CPU; False if one is too far.

    TF32, which PyTorch allows convolutions by default, is float32 with 10 bits: with it a gradient is off by 2e-3.
    """
    with _tf32(tf32):
        return _compare(say, device)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    kinds: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = allowed
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.allow_tf32 = was


def _compare(say: Callable[[str], None], device: torch.device) -> bool:
    toy = TOYS["tiny"]
    agreed = True
    with tempfile.TemporaryDirectory() as name:
        folder = write_models(toy, Path(name))
        reference = open_recogniser(folder, toy.hidden)
        spoken = make_speech(in_the_wild(6, 0), reference.prompt, 0)
        loss, gradient = _compute(reference, spoken)
        for dtype, (loss_within, gradient_within) in TOLERANCES.items():
            packed = open_recogniser(folder, toy.hidden, dtype, device)
            for layout, model in (("packed", packed), ("padded", padded_form(packed))):
                found, direction = _compute(model, spoken)
                loss_off = abs(found / loss - 1)
                gradient_off = float((direction - gradient).norm() / gradient.norm())
                good = loss_off <= loss_within and gradient_off <= gradient_within
                agreed &= good
                say(
                    f"parity {device.type} {dtype} {layout}: loss off by {loss_off:.1e} (allowed {loss_within:g}), "
                    f"gradient by {gradient_off:.1e} ({gradient_within:g}): {'equal' if good else 'NOT EQUAL'}"
                )
    return agreed


def _compute(model: SlamAsr, spoken: list[Spoken]) -> tuple[float, Tensor]:
    """The summed loss, and the adapter's gradient as one float32 vector on the CPU."""
    model.train()
    loss = ours(model, spoken)
    loss.backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in model.adapter.parameters() if p.grad is not None])
    model.adapter.zero_grad(set_to_none=True)
    return float(loss.detach()), gradient
