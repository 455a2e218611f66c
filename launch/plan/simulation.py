"""What a micro-batch takes, by running the product's own recogniser on tensors without storage (torch's meta device).

The recogniser is cut to one and to two layers and runs over one and over two mean utterances. Bytes and FLOPs are
linear in both, so these four runs, half a second together, give those of any number. Attention is computed as on a
GPU. Bytes are those of the tensors that live at a time, weights left out; of what kernels allocate inside, only the
copy that a norm makes of an input that is not contiguous is counted. FLOPs are torch's own count.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.attention.varlen  # registers the kernel of packed attention
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from launch.plan.data import Utterance, utterance_of
from launch.plan.shapes import Shapes, layers_of, random_batch, random_recogniser
from model.batch import Batch
from model.errors import UserError
from model.slam_asr import SlamAsr

META = torch.device("meta")
FLOAT32 = 4  # bytes
aten, kernels = torch.ops.aten, torch.ops.torch_attn


class Moments(NamedTuple):
    """Bytes at the highest moments of a step, beside what stays between steps (weights, gradients, moments); FLOPs."""

    convolutions: float
    """In the encoder's convolutions, the longest utterance among those of the batch."""
    encoding: float
    """In the encoder's transformer."""
    encoder_flops: float
    kept: float
    """What autograd keeps for the backward pass."""
    inputs: float
    """What it keeps besides in ZeRO-3: DeepSpeed's own linear layers keep their inputs."""
    loss: float
    """To the end of the head's backward pass."""
    backward: float
    """In the backward pass through the LLM's layers."""
    flops: float
    """Of adapter and LLM, forward and backward."""

    def extrapolated(self, two: Moments, number: float) -> Moments:
        """`self` is of one layer or utterance, `two` of two -> of `number`."""
        return Moments(*(first + (second - first) * (number - 1) for first, second in zip(self, two, strict=True)))


@dataclass(frozen=True)
class StepCost:
    """A micro-batch of mean utterances."""

    utterance: Utterance
    one: Moments
    two: Moments
    """Of two utterances."""
    audio: int
    """Bytes of one utterance as it is given to the recogniser."""
    features: int
    """The same of its cached frames."""
    update: int
    """Bytes that AdamW's update takes for a moment: two copies of the adapter."""

    def at(self, utterances: float) -> Moments:
        return self.one.extrapolated(self.two, utterances)

    def peak(self, tokens: float, cached: bool, zero3: bool = False) -> float:
        """Bytes at the highest moment of a step with micro-batches of so many LLM tokens."""
        utterances = tokens / self.utterance.tokens
        at = self.at(utterances)
        learning = max(at.loss, at.backward) + (at.inputs if zero3 else 0)
        encoding = 0 if cached else max(at.convolutions, at.encoding)
        return utterances * (self.features if cached else self.audio) + max(encoding, learning, self.update)


def simulate(
    shapes: Shapes, utterance: Utterance, longest_samples: int, prompt_tokens: int, packed: bool = True
) -> StepCost:
    """Of utterances like `utterance`; unless `packed` they are encoded one by one, as on a CPU.

    UserError for an LLM that cannot be computed without weights.
    """
    try:
        try:
            runs, added = _runs(shapes, utterance, longest_samples, prompt_tokens, packed, "packed")
        except ValueError as error:  # of packed attention, for what it does not implement
            if isinstance(error, UserError):
                raise
            runs, added = _runs(shapes, utterance, longest_samples, prompt_tokens, packed, "padded")
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"an LLM of family {shapes.llm.model_type} cannot be planned: it is not computed without weights "
            f"({reason}); begin with a small batch.tokens and raise it"
        ) from error
    sizes = []
    for number in (1, 2):
        depths = (layers_of(shapes.encoder), layers_of(shapes.llm))
        encoder, llm = (runs[1, number].extrapolated(runs[2, number], depth) for depth in depths)
        sizes.append(Moments(encoder.convolutions + added, *encoder[1:3], *llm[3:]))
    features = shapes.dtype.itemsize * shapes.adapter.encoder_dim * utterance.frames
    update = 2 * FLOAT32 * shapes.adapter_parameters
    one, two = sizes
    return StepCost(utterance, one, two, FLOAT32 * utterance.samples, features, update)


def _runs(
    shapes: Shapes, utterance: Utterance, longest_samples: int, prompt_tokens: int, packed: bool, layout: str
) -> tuple[dict[tuple[int, int], Moments], float]:
    """{(layers, utterances): what they take}, and what the longest utterance adds to the convolutions."""
    runs, longest, added = {}, utterance_of(shapes, longest_samples, 1, prompt_tokens), 0.0
    for layers in (1, 2):
        model = random_recogniser(shapes, META, prompt_tokens, layout=layout, layers=layers).train()
        assert model.encoder is not None
        model.encoder.packed = model.encoder.packs and packed
        for number in (1, 2):
            encoding, encoded = _encode(model, random_batch(shapes, utterance, number, META))
            runs[layers, number] = Moments(*encoding, *_learn(model, encoded))
        added = _encode(model, random_batch(shapes, longest, 1, META))[0][0] - runs[layers, 1].convolutions
    return runs, added


def _encode(model: SlamAsr, batch: Batch) -> tuple[tuple[float, float, float], Batch]:
    """The first three of Moments, and the batch with the encoder's frames."""
    encoder: Any = model.encoder
    body, meter = encoder.model.encoder, _Meter(model, batch)
    with _flop_counter() as flops, body.layers[0].register_forward_pre_hook(meter.end_phase), meter:
        encoded = model.encoded(batch)
    meter.end_phase()
    convolutions, *transformer = meter.peaks
    return (convolutions, max(transformer), flops.get_total_flops()), encoded


def _learn(model: SlamAsr, batch: Batch) -> tuple[float, ...]:
    """The others of Moments: of one step from the encoder's frames."""
    layers, meter = model.llm.base_model, _Meter(model, batch)

    def watch_input(module: Any, args: Any, kwargs: Any) -> None:
        kwargs["inputs_embeds"].register_hook(meter.end_phase)

    def watch_output(module: Any, args: Any, output: Any) -> None:
        output.last_hidden_state.register_hook(meter.end_phase)

    with (
        _flop_counter() as flops,
        layers.register_forward_pre_hook(watch_input, with_kwargs=True),
        layers.register_forward_hook(watch_output),
        meter,
    ):
        loss = model(batch).loss
        kept, inputs = meter.now, meter.linear_inputs
        loss.backward()
    model.zero_grad()
    loss_peak, backward, *_ = meter.peaks
    return kept, inputs, loss_peak, backward, flops.get_total_flops()


class _Meter(TorchDispatchMode):
    """Bytes of the tensors on the meta device that live, but those of the model and of the batch."""

    def __init__(self, model: SlamAsr, batch: Batch) -> None:
        super().__init__()
        self.now, self.linear_inputs, self.peaks, self._peak = 0, 0, [], 0
        tensors = [t for part in (model, model.encoder) if part for t in (*part.parameters(), *part.buffers())]
        tensors += [tensor for tensor in vars(batch).values() if isinstance(tensor, Tensor)]
        self._outside = {tensor.untyped_storage()._cdata for tensor in tensors}
        self._live: dict[int, int] = {}
        self._into_linear: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(tensor.untyped_storage())
        if func.overloadpacket is aten.native_layer_norm and not args[0].is_contiguous():
            self._peak = max(self._peak, self.now + args[0].nbytes)
        if func.overloadpacket in (aten.mm, aten.addmm):  # of a linear layer: all other products are in attention
            self._into_linear.add(args[-2].untyped_storage()._cdata)
        return result

    def end_phase(self, *_: Any) -> None:
        """Notes the highest moment since the last call; a hook of modules and of gradients."""
        self.peaks.append(self._peak)
        self._peak = self.now

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self._live and storage._cdata not in self._outside:
            self._live[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self._peak = max(self._peak, self.now)
            weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        size = self._live.pop(key)
        self.now -= size
        if key in self._into_linear:
            self._into_linear.discard(key)
            self.linear_inputs += size


def _flop_counter() -> FlopCounterMode:
    """Of packed attention too: its utterances are of one length here, and causal attention is half of the square."""

    def forward(query: Any, *given: Any, **_: Any) -> int:
        (tokens, heads, width), longest, causal = query, given[4], given[6]
        return 4 * tokens * longest * heads * width // (2 if causal else 1)

    def backward(gradient: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, *given: Any, **_: Any) -> int:
        return 2 * forward(query, key, value, *given)

    mapping = {kernels._varlen_attn: forward, kernels._varlen_attn_backward: backward}
    return FlopCounterMode(display=False, custom_mapping=mapping)
