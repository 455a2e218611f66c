"""Bytes and FLOPs of a micro-batch, by running the product's own recogniser on torch's meta device.

The recogniser is cut to one and to two layers and runs over one and over two mean utterances. Bytes and FLOPs are
linear in both, so these four runs give those of any number. Attention is computed as on a GPU. Bytes are those of the
tensors that live at a time, weights left out; of what kernels allocate inside, only the copy that a norm makes of an
input that is not contiguous is counted. FLOPs are torch's own count."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
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

    convolutions: float  # in the encoder's convolutions, the longest utterance among those of the batch
    encoding: float  # in the encoder's transformer
    encoder_flops: float
    kept: float  # by autograd for the backward pass
    inputs: float  # kept besides in ZeRO-3: DeepSpeed's own linear layers keep their inputs
    loss: float  # to the end of the head's backward pass
    backward: float  # in the backward pass through the LLM's layers
    flops: float  # of adapter and LLM, forward and backward

    def extrapolated(self, two: Moments, number: float) -> Moments:
        """`self` is of one layer or utterance, `two` of two -> of `number`."""
        return Moments(*(first + (second - first) * (number - 1) for first, second in zip(self, two, strict=True)))


@dataclass(frozen=True)
class StepCost:
    """A micro-batch of mean utterances; `two` is of two utterances."""

    shapes: Shapes
    utterance: Utterance
    one: Moments
    two: Moments

    def at(self, utterances: float) -> Moments:
        return self.one.extrapolated(self.two, utterances)

    def peak(self, tokens: float, cached: bool, zero3: bool = False) -> float:
        """Bytes at the highest moment of a step with micro-batches of so many LLM tokens."""
        utterances, shapes = tokens / self.utterance.tokens, self.shapes
        at = self.at(utterances)
        learning = max(at.loss, at.backward) + (at.inputs if zero3 else 0)
        update = 2 * FLOAT32 * shapes.trained_parameters  # AdamW's: two copies of the trained parameters
        if cached:
            frames = shapes.encoder_dtype.itemsize * shapes.adapter.frame_dim * self.utterance.frames
            return utterances * frames + max(learning, update)
        return utterances * FLOAT32 * self.utterance.samples + max(at.convolutions, at.encoding, learning, update)


def simulate(
    shapes: Shapes, utterance: Utterance, longest_samples: int, prompt_tokens: int, packed: bool = True
) -> StepCost:
    """Of utterances like `utterance`; unless `packed` they are encoded one by one, as on a CPU. UserError for an LLM
    that cannot be computed without weights."""
    batches = [random_batch(shapes, utterance, number, META) for number in (1, 2)]
    batches.append(random_batch(shapes, utterance_of(shapes, longest_samples, 1, prompt_tokens), 1, META))

    def measure(layers: int, layout: str) -> list[Moments]:
        model = random_recogniser(shapes, META, prompt_tokens, layout=layout, layers=layers).train()
        assert model.encoder is not None
        model.encoder.packed = model.encoder.packs and packed
        return [_moments(model, batch) for batch in batches]

    try:
        try:
            shallow, deep = measure(1, "packed"), measure(2, "packed")
        except UserError:
            raise
        except ValueError:  # of packed attention, for what it does not implement
            shallow, deep = measure(1, "padded"), measure(2, "padded")
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"an LLM of family {shapes.llm.model_type} cannot be planned: it is not computed without weights "
            f"({reason}); begin with a small batch.tokens and raise it"
        ) from error
    longer = deep[2].convolutions - deep[0].convolutions  # the longest utterance takes so much more
    sizes = []
    for one_layer, two_layers in zip(shallow[:2], deep[:2], strict=True):
        depths = (shapes.encoder_layers.last, layers_of(shapes.llm))
        encoder, llm = (one_layer.extrapolated(two_layers, depth) for depth in depths)
        sizes.append(Moments(encoder.convolutions + longer, *encoder[1:3], *llm[3:]))
    return StepCost(shapes, utterance, *sizes)


def _moments(model: SlamAsr, batch: Batch) -> Moments:
    """Of one step: first the encoder, then, from its frames, adapter and LLM."""
    encoder: Any = model.encoder
    layers, meter = model.llm.base_model, _Meter(model, batch)
    first = encoder.blocks[0]
    with _flop_counter() as encoder_flops, first.register_forward_pre_hook(meter.end_phase), meter:
        batch = model.encoded(batch)
    meter.end_phase()
    convolutions, *transformer = meter.peaks
    assert batch.features is not None
    width = model.adapter.spec.frame_dim  # of the whole encoder, whose frames may be several layers, concatenated
    batch = replace(batch, features=batch.features.new_empty(len(batch.features), width))
    for parameter in model.trained.values():
        parameter.grad = torch.zeros_like(parameter)  # stays between steps
    meter = _Meter(model, batch)

    def watch_input(module: Any, args: Any, kwargs: Any) -> None:
        kwargs["inputs_embeds"].register_hook(meter.end_phase)

    def watch_output(module: Any, args: Any, output: Any) -> None:
        output.last_hidden_state.register_hook(meter.end_phase)

    hook_input = layers.register_forward_pre_hook(watch_input, with_kwargs=True)
    with _flop_counter() as flops, hook_input, layers.register_forward_hook(watch_output), meter:
        loss = model(batch).loss
        kept, inputs = meter.now, meter.linear_inputs
        loss.backward()
    model.zero_grad()
    loss_peak, backward, *_ = meter.peaks
    encoding, flops_in_all = max(transformer), (encoder_flops.get_total_flops(), flops.get_total_flops())
    return Moments(convolutions, encoding, flops_in_all[0], kept, inputs, loss_peak, backward, flops_in_all[1])


class _Meter(TorchDispatchMode):
    """Bytes of the tensors on the meta device that live, but those of the model and of the batch."""

    def __init__(self, model: SlamAsr, batch: Batch) -> None:
        super().__init__()
        self.now, self.linear_inputs, self.peaks, self._peak = 0, 0, [], 0
        tensors = [t for part in (model, model.encoder) if part for t in (*part.parameters(), *part.buffers())]
        tensors += [parameter.grad for parameter in model.trained.values() if parameter.grad is not None]
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
