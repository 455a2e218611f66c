"""SLAM-ASR (arXiv 2402.08846, figure 1): frozen encoder -> adapter -> frozen LLM.

    audio --encoder--> 50 frames/s --adapter--> 10 embeddings/s --|
                     "USER: "  +  speech  +  " Transcribe speech to text. ASSISTANT:"  +  answer  --LLM--> answer + EOS

The utterances of a batch lie end to end in the LLM's input (packed), or in rows padded on the left: the same numbers,
but the second way computes the padding too.

B utterances, T frames, D encoder width, S width of the padded LLM input, H LLM width, L answer tokens (EOS included),
V vocabulary."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.adapters import Adapter
from model.batch import Batch, dequantise, with_frames_masked
from model.encoders import Encoder
from model.errors import UserError
from model.llm import Llm, logits_at, packed_logits_at
from model.lora import lora_dropouts, lora_parameters
from model.packing import Layout, lay_out, packed_lengths
from model.prompt import Prompt


class Output(NamedTuple):
    """Sums over the `batch.num_targets` answer tokens of a micro-batch; a tuple, as ZeRO-3 looks for tensors in one."""

    loss: Tensor  # float32 scalar: the answer tokens' negative log likelihoods, summed
    num_correct: Tensor  # int64 scalar: answer tokens predicted from the true tokens before them


class SlamAsr(nn.Module):
    """The whole recogniser; only the adapter and, if the LLM has it, LoRA are trained and follow `train()`."""

    gradient_scale: float = 1.0
    """Factor of gradients inside the LLM and nowhere else; about 2**12 for a float16 LLM.

    float16's smallest number is 6e-8, so that gradients of a mean token loss would underflow. So they are multiplied
    where they enter the LLM and divided where they leave it, or reach LoRA weights (loss scaling, arXiv 1710.03740,
    section 3.2). The loss and the gradients of trained parameters are not scaled; a power of two is exact. Overflows
    stay inf or nan, for the check of gradients."""

    def __init__(
        self,
        encoder: Encoder | None,
        adapter: Adapter,
        llm: Llm,
        prompt: Prompt,
        layout: Literal["packed", "padded"] = "packed",
    ) -> None:
        """`encoder` is None when features are cached; it stays on the device it was loaded to. It is kept out of the
        module tree: ranks call it unequally often, and ZeRO-3, which shards whatever is in the tree, would wait."""
        super().__init__()
        self._encoder = (encoder,)
        self.samples_per_frame = (encoder or Encoder).samples_per_frame
        """Samples at 16 kHz between frames; without the encoder the usual 320, to be set if its own differs."""
        self.utterance_seconds = 0.0
        """Seconds that 95 % of the utterances it was trained on do not exceed; 0 if not known."""
        self.adapter = adapter
        self.llm = llm.model
        self.prompt = prompt
        self.layout = layout if llm.packs else "padded"
        padded = f"the LLM computes padded batches, as {llm.padded_because or 'packing is not enabled'}"
        self.packing_note = padded if layout != self.layout else None
        """Set if packing was requested but is not possible: padding costs time and memory."""
        self._lora_dropouts = lora_dropouts(self.llm)
        for parameter in lora_parameters(self.llm).values():
            parameter.register_hook(self._unscaled)

    def train(self, mode: bool = True) -> "SlamAsr":
        super().train(mode)
        self.llm.eval()
        for dropout in self._lora_dropouts:
            dropout.train(mode)
        return self

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """All trained parameters: the adapter's under their own names, LoRA's under the names of model/lora.py."""
        return dict(self.adapter.named_parameters()) | lora_parameters(self.llm)

    @property
    def encoder(self) -> Encoder | None:
        return self._encoder[0]

    @property
    def device(self) -> torch.device:
        return next(self.adapter.parameters()).device

    @property
    def max_positions(self) -> int | None:
        """Places in the LLM's input, answer included; None if its configuration does not say."""
        return getattr(self.llm.config.get_text_config(), "max_position_embeddings", None) or None

    def forward(self, batch: Batch) -> Output:
        """The summed loss of the batch's answers. Audio, prompt and padding are not targets; EOS is one."""
        layout = self._lay_out(batch, batch.target_cu.diff() - 1, self.layout == "padded")  # EOS is never fed in
        is_eos = torch.zeros(batch.num_targets, dtype=torch.bool).index_fill(0, batch.target_cu[1:] - 1, True)
        fed_in = _moved(torch.nonzero(~is_eos)[:, 0], batch.targets.device)
        hidden = None if batch.masked_targets is None else batch.masked_targets[fed_in]
        embeds = self._compose(layout, batch, batch.targets[fed_in], hidden)
        logits = self._answer_logits(layout, embeds)  # [sum L, V]
        loss = F.cross_entropy(logits.float(), batch.targets, reduction="sum")
        return Output(_scale_gradient(loss, self.gradient_scale), (logits.argmax(-1) == batch.targets).sum())

    def prompt_embeds(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What generation starts from: embeddings [B, S, H], padded on the left, and their mask int64 [B, S]."""
        layout = self._lay_out(batch, torch.zeros(len(batch), dtype=torch.int64), padded=True)
        embeds = self._compose(layout, batch, batch.targets[:0])
        return embeds.view(len(batch), layout.width, -1), _moved(layout.mask, embeds.device)

    def num_frames(self, batch: Batch) -> Tensor:
        """Encoder frames of each utterance, int64 [B] on the CPU, the same for audio and for its cached features."""
        if batch.audio is None:
            return batch.feature_cu.diff()
        assert self.encoder is not None, "audio needs an encoder"
        return self.encoder.out_len(batch.audio_cu.diff())

    def speech_tokens(self, batch: Batch) -> Tensor:
        """Speech embeddings of each utterance, int64 [B] on the CPU; below 1 for one that is too short."""
        return self.adapter.out_len(self.num_frames(batch))

    def encoded(self, batch: Batch) -> Batch:
        """The batch with the encoder's frames in place of audio."""
        if batch.audio is None:
            return batch
        frames, frame_cu = self._frames(batch)
        return replace(batch, audio=None, audio_cu=batch.feature_cu, features=frames, feature_cu=frame_cu)

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient if self.gradient_scale == 1.0 else gradient / self.gradient_scale

    def _frames(self, batch: Batch) -> tuple[Tensor, Tensor]:  # -> [sum T, D] and frame_cu [B + 1]
        if batch.audio is None:
            assert batch.features is not None
            int8 = batch.features.dtype == torch.uint8
            return dequantise(batch.features) if int8 else batch.features, batch.feature_cu
        assert self.encoder is not None, "audio needs an encoder"
        return self.encoder(batch.audio, batch.audio_cu)

    def _lay_out(self, batch: Batch, answer: Tensor, padded: bool) -> Layout:
        """The layout with `answer` [B] answer tokens fed in; UserError if an utterance does not fit."""
        speech = self.speech_tokens(batch)
        if int(speech.min()) < 1:
            key = batch.keys[int(speech.argmin())]
            advice = "drop what is under data.min_seconds: 0.2"
            raise UserError(f"utterance {key!r} is too short for one speech embedding; {advice}")
        layout = lay_out(len(self.prompt.prefix_ids), speech, len(self.prompt.suffix_ids), answer, padded)
        if self.max_positions is not None and layout.width > self.max_positions:
            key = batch.keys[int((speech + answer).argmax())]
            needs = f"needs {layout.width} LLM positions, this LLM has {self.max_positions}"
            raise UserError(f"utterance {key!r} {needs}; lower data.max_seconds")
        return layout

    def _compose(self, layout: Layout, batch: Batch, answer_ids: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The LLM's input [layout.size, H] in its own dtype; padding and the `hidden` answer tokens are zero."""
        frames, frame_cu = self._frames(batch)
        speech, _ = self.adapter(with_frames_masked(frames, frame_cu, batch), frame_cu)  # [sum S, H] float32
        prompt = self.prompt.prefix_ids * len(layout.lengths) + self.prompt.suffix_ids * len(layout.lengths)
        ids = torch.cat([_moved(torch.tensor(prompt, dtype=torch.int64), speech.device), answer_ids])
        text = self.llm.get_input_embeddings()(ids)
        if hidden is not None:
            text = text.masked_fill(F.pad(hidden, (len(prompt), 0))[:, None], 0)
        places = torch.cat([layout.prefix, layout.suffix, layout.answer])
        speech = _scale_gradient(speech, 1 / self.gradient_scale).to(text.dtype)
        embeds = text.new_zeros(layout.size, text.shape[-1]).index_copy_(0, _moved(places, text.device), text)
        return embeds.index_copy_(0, _moved(layout.speech, text.device), speech)

    def _answer_logits(self, layout: Layout, embeds: Tensor) -> Tensor:
        """embeds [layout.size, H] -> logits [sum L, V] at the places that predict an answer token or its end."""
        device, places = embeds.device, layout.predicting
        if self.layout == "packed":
            packing, positions = packed_lengths(layout.lengths, device), _moved(layout.positions, device)
            return packed_logits_at(self.llm, embeds, positions, packing, _moved(places, device))
        rows, columns = _moved(places // layout.width, device), _moved(places % layout.width, device)
        in_rows = embeds.view(len(layout.lengths), layout.width, -1)
        return logits_at(self.llm, in_rows, _moved(layout.mask, device), columns, rows)


def _moved(indices: Tensor, device: torch.device) -> Tensor:
    """From the CPU to the device, without waiting for what the device is computing."""
    return indices.to(device, non_blocking=True)


class _ScaleGradient(torch.autograd.Function):
    """The same values, whose gradient is multiplied by `factor`."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * ctx.factor, None


def _scale_gradient(tensor: Tensor, factor: float) -> Any:
    return tensor if factor == 1.0 else _ScaleGradient.apply(tensor, factor)
