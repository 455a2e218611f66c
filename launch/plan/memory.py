"""The memory that a step takes, derived from what is kept for its backward pass.

No frozen weight asks for a gradient, so a linear layer keeps its weight and not its input. What is kept of T tokens in
the packed layout, d bytes a value of the frozen parts (`kept`, compared with autograd's own saved tensors in tests):

    an RMS norm         its input in float32 and a mean of squares          4 (H + 1) T
    rotary positions    cosines and sines, once for all layers              2 d head_dim T
    attention           q, k, v, its output, and a float32 a head           (d (2 q + 2 k) + 4 heads) T
    a gated MLP         gate, act(gate) and up                              3 d I T
    the head            log-softmax at P answer places, float32             4 V P
    the adapter         S stacked inputs and hidden values, float32         4 (k D + hidden) S, and its output

Residual additions, projections and the head's product keep nothing, but in ZeRO-3: DeepSpeed then puts a product of
its own in place of torch's, which keeps its input though no weight asks for a gradient:

    projections         into q, k, v; into gate and up; into down           d (2 H + I) T

The peak is the highest of four moments (`peak`).
T tokens, P answer tokens, S speech embeddings, F encoder frames, N samples; H, I, V, D, q, k widths.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.shapes import EncoderShape, LlmShape, Shapes

FLOAT32, INT64 = 4, 8  # bytes


@dataclass(frozen=True)
class Micro:
    """How much there is of everything in one micro-batch."""

    tokens: float
    targets: float
    speech: float
    frames: float
    samples: float
    """Of audio; 0 where features are cached."""
    longest: float
    """Samples of the longest utterance; 0 where features are cached."""


def kept(shapes: Shapes, micro: Micro, on_gpu: bool = True, zero3: bool = False) -> float:
    """Bytes that autograd saves of one micro-batch, parameters left out."""
    inputs = _kept_by_zero3(shapes, micro, on_gpu) if zero3 else 0.0
    tokens = _kept_of_tokens(shapes, micro.tokens)
    return tokens + _kept_of_adapter(shapes, micro, on_gpu) + _kept_of_head(shapes, micro) + inputs


def _kept_by_zero3(shapes: Shapes, micro: Micro, on_gpu: bool) -> float:
    """On a CPU the heads' outputs are brought together once more before they are projected."""
    llm, d = shapes.llm, shapes.dtype.itemsize
    layer = 2 * llm.hidden + llm.inner + (0 if on_gpu else llm.query)
    return d * (micro.tokens * llm.layers * layer + micro.targets * llm.hidden)


def _kept_of_tokens(shapes: Shapes, tokens: float) -> float:
    llm, d = shapes.llm, shapes.dtype.itemsize
    norms = FLOAT32 * (llm.rms_width + llm.rms_count) + d * llm.norm_width
    attention = d * (2 * llm.query + 2 * llm.keys) + FLOAT32 * llm.heads
    mlp = d * llm.inner * (3 if llm.gated else 1)
    return tokens * (norms + llm.layers * (attention + mlp) + 2 * d * llm.head_dim)


def _kept_of_adapter(shapes: Shapes, micro: Micro, on_gpu: bool) -> float:
    spec = shapes.adapter
    dropped = spec.hidden * (FLOAT32 + (1 if on_gpu else FLOAT32)) if spec.dropout else 0  # what is left, and the mask
    each = FLOAT32 * (spec.stack * spec.encoder_dim + spec.hidden) + dropped
    return micro.speech * (each + shapes.dtype.itemsize * spec.llm_dim + INT64)


def _kept_of_head(shapes: Shapes, micro: Micro) -> float:
    return micro.targets * (FLOAT32 * shapes.llm.vocabulary + 2 * INT64)


def peak(shapes: Shapes, micro: Micro, on_gpu: bool = True, zero3: bool = False) -> float:
    """Bytes at the highest moment of a step, beside what stays between steps (weights, gradients, moments):

    encoding; turning the loss back (two more float32 copies of the logits); turning the last layer's MLP back (all that
    is kept but the logits, and three gradients of its width); AdamW's update (two copies of the adapter).
    """
    llm, d = shapes.llm, shapes.dtype.itemsize
    all_kept = kept(shapes, micro, on_gpu, zero3)
    given = FLOAT32 * micro.samples if micro.samples else d * shapes.encoder.hidden * micro.frames
    loss = 2 * FLOAT32 * llm.vocabulary * micro.targets
    mlp = micro.tokens * (d * llm.inner * (3 if llm.gated else 2) + 2 * d * llm.hidden) - _kept_of_head(shapes, micro)
    update = 2 * FLOAT32 * shapes.adapter_parameters
    encoding = _encoding(shapes.encoder, d, micro, on_gpu) if micro.samples else 0.0
    return given + max(encoding, all_kept + max(loss, mlp), update)


def _encoding(encoder: EncoderShape, d: int, micro: Micro, on_gpu: bool) -> float:
    """Bytes at the highest moment of the encoder's pass, which keeps nothing: the convolutions of the longest
    utterance, or the transformer, which reads all utterances at once on a GPU and one at a time on a CPU.

    In a transformer layer: in and out of the MLP's activation, the residual and its norm, and from before the layers
    the convolutions' frames, normed and projected, with and without positions.
    """
    waves = d * micro.samples
    convolutions = d * encoder.copies * encoder.channels * micro.longest / encoder.first_stride
    at_once = micro.frames if on_gpu else micro.longest / encoder.downsampling
    width = 2 * encoder.inner + 6 * encoder.hidden + 2 * encoder.config.conv_dim[-1]
    frames = d * encoder.hidden * micro.frames
    return waves + frames + max(convolutions, d * width * at_once, frames)


def gathered(llm: LlmShape) -> int:
    """Weights of the widest single module, which ZeRO-3 must gather whole: embedding, or head."""
    return llm.vocabulary * llm.hidden
