"""SLAM-ASR (arXiv 2402.08846, figure 1): frozen encoder -> adapter -> frozen LLM.

    audio --encoder--> 50 frames/s --adapter--> 10 embeddings/s --|
                     "USER: "  +  speech  +  " Transcribe speech to text. ASSISTANT:"  +  answer  --LLM--> answer + EOS

B utterances, S width of the padded LLM input, H LLM width, L answer tokens (EOS included), V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.adapter import ConcatAdapter
from model.batch import Batch
from model.encoders import Encoder
from model.errors import UserError
from model.layout import Layout, lay_out
from model.llm import Llm, logits_at
from model.prompt import Prompt


class Output(NamedTuple):
    """Sums over the `batch.num_targets` answer tokens of a micro-batch; a tuple, as ZeRO-3 looks for tensors in one."""

    loss: Tensor
    """float32 scalar: the answer tokens' negative log likelihoods, summed."""
    num_correct: Tensor
    """int64 scalar: answer tokens whose most likely prediction, given the true tokens before them, is right."""


class SlamAsr(nn.Module):
    """The whole recogniser; only the adapter asks for gradients, and only it listens to `train()`."""

    def __init__(self, encoder: Encoder | None, adapter: ConcatAdapter, llm: Llm, prompt: Prompt) -> None:
        """`encoder` is None when features are cached; it stays on the device it was loaded to.

        It is kept out of the module tree: it runs once per utterance, so ranks call it unequally often, and ZeRO-3,
        which shards whatever is in the tree, would wait for ever.
        """
        super().__init__()
        self._encoder = (encoder,)
        self.adapter = adapter
        self.llm = llm.model
        self.prompt = prompt

    def train(self, mode: bool = True) -> "SlamAsr":
        super().train(mode)
        self.llm.eval()
        return self

    @property
    def encoder(self) -> Encoder | None:
        return self._encoder[0]

    @property
    def device(self) -> torch.device:
        return next(self.adapter.parameters()).device

    def forward(self, batch: Batch) -> Output:
        """The summed loss of the batch's answers. Audio, prompt and padding are not targets; EOS is one."""
        lengths = batch.target_cu.diff()
        layout = self._lay_out(batch, lengths - 1)  # EOS is predicted, never fed in
        is_eos = torch.zeros(batch.num_targets, dtype=torch.bool).index_fill(0, batch.target_cu[1:] - 1, True)
        fed_in = torch.nonzero(~is_eos)[:, 0].to(batch.targets.device)
        embeds = self._compose(layout, self.speech_embeds(batch), batch.targets[fed_in])
        # Answer token j of a row is predicted at the place before it; the last place of every row predicts EOS.
        row = torch.repeat_interleave(torch.arange(len(batch)), lengths)
        column = torch.arange(batch.num_targets) - torch.repeat_interleave(batch.target_cu[1:], lengths) + layout.width
        device = embeds.device
        logits = logits_at(self.llm, embeds, layout.mask.to(device), column.to(device), row.to(device))  # [sum L, V]
        loss = F.cross_entropy(logits.float(), batch.targets, reduction="sum")
        return Output(loss, (logits.argmax(-1) == batch.targets).sum())

    def prompt_embeds(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What generation starts from: embeddings [B, S, H], padded on the left, and their mask int64 [B, S]."""
        layout = self._lay_out(batch, torch.zeros(len(batch), dtype=torch.int64))
        embeds = self._compose(layout, self.speech_embeds(batch), batch.targets[:0])
        return embeds, layout.mask.to(embeds.device)

    def speech_tokens(self, batch: Batch) -> Tensor:
        """Speech embeddings of each utterance, int64 [B] on the CPU; under 1 where one is too short."""
        if batch.audio is None:
            return self.adapter.out_len(batch.feature_cu.diff())
        assert self.encoder is not None, "audio needs an encoder"
        return self.adapter.out_len(self.encoder.out_len(batch.audio_cu.diff()))

    def speech_embeds(self, batch: Batch) -> Tensor:
        """The adapter's output for the batch, [sum of speech_tokens, H] float32."""
        if batch.audio is None:
            assert batch.features is not None
            return self.adapter(batch.features, batch.feature_cu)[0]
        assert self.encoder is not None, "audio needs an encoder"
        return self.adapter(*self.encoder(batch.audio, batch.audio_cu))[0]

    def _lay_out(self, batch: Batch, answer: Tensor) -> Layout:
        """Where everything goes, with `answer` [B] answer tokens fed in; UserError if an utterance does not fit."""
        speech = self.speech_tokens(batch)
        if int(speech.min()) < 1:
            key = batch.keys[int(speech.argmin())]
            raise UserError(
                f"utterance {key!r} is too short for one speech embedding; drop what is under data.min_seconds: 0.2"
            )
        layout = lay_out(len(self.prompt.prefix_ids), speech, len(self.prompt.suffix_ids), answer)
        longest = getattr(self.llm.config, "max_position_embeddings", None) or layout.width
        if layout.width > longest:
            key = batch.keys[int((speech + answer).argmax())]
            raise UserError(
                f"utterance {key!r} needs {layout.width} LLM positions, this LLM has {longest}; lower data.max_seconds"
            )
        return layout

    def _compose(self, layout: Layout, speech: Tensor, answer_ids: Tensor) -> Tensor:  # -> [B, S, H] in the LLM's dtype
        device = speech.device
        prefix = torch.tensor(self.prompt.prefix_ids, dtype=torch.int64, device=device).repeat(layout.rows)
        suffix = torch.tensor(self.prompt.suffix_ids, dtype=torch.int64, device=device).repeat(layout.rows)
        words = self.llm.get_input_embeddings()(torch.cat([prefix, suffix, answer_ids]))
        word_places = torch.cat([layout.prefix, layout.suffix, layout.answer]).to(device)
        flat = words.new_zeros(layout.rows * layout.width, words.shape[-1]).index_copy(0, word_places, words)
        flat = flat.index_copy(0, layout.speech.to(device), speech.to(words.dtype))
        return flat.view(layout.rows, layout.width, -1)
