"""Speech to text: greedy or beam search over the frozen LLM, never sampling.

1. `SlamAsr.prompt_embeds` lays the prompts out, padded on the left, with a mask that positions follow from.
2. Every utterance gets a bound on its new tokens, from its own length alone. A neighbour in the batch can therefore
   never lengthen or shorten an answer: a batch says what its utterances say alone (up to rounding in half precision).
3. transformers' `generate` searches, under a configuration of ours: whatever a checkpoint's generation_config.json
   asks for (temperature, repetition penalty, suppressed tokens ...) is not applied.

B utterances, S width of the prompts, N new tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from model.batch import Batch
from model.prompt import Prompt
from model.slam_asr import SlamAsr

FRAMES_PER_SECOND = 50  # of every encoder here: one frame each 20 ms
TOKENS_PER_SECOND = 25
"""The fastest of 2,608 LibriSpeech utterances has 23 characters a second (5.3 words), so this is enough even for a
tokenizer that spends one token on every character. It only bounds what a model that does not stop can cost."""
EXTRA_TOKENS = 8  # for answers to less than a second of speech


@dataclass(frozen=True)
class Transcript:
    """The text of one utterance."""

    text: str
    cut: bool
    """Ended by the bound on new tokens, not by the model."""


def transcribe_batch(
    model: SlamAsr, batch: Batch, beams: int = 1, max_new_tokens: int | None = None, synced_gpus: bool = False
) -> list[str]:
    """B texts; see `transcripts`."""
    return [answer.text for answer in transcripts(model, batch, beams, max_new_tokens, synced_gpus)]


@torch.no_grad()
def transcripts(
    model: SlamAsr, batch: Batch, beams: int = 1, max_new_tokens: int | None = None, synced_gpus: bool = False
) -> list[Transcript]:
    """B transcripts by greedy search (`beams` 1) or beam search, with dropout off; the batch may lie on any device.

    `max_new_tokens` replaces the bound from each utterance's length. `synced_gpus` makes this a collective, as ZeRO-3
    on several ranks needs: all ranks call it equally often. UserError if an utterance is `unfit`.
    """
    was_training = model.training
    model.eval()
    try:
        embeds, mask = model.prompt_embeds(batch.to(model.device))  # [B, S, H], [B, S]
        bounds = token_bounds(model, batch, mask.sum(1).cpu(), max_new_tokens)
        tokens = _search(model, embeds, mask, bounds, beams, synced_gpus)
    finally:
        model.train(was_training)
    return [_transcript(model.prompt, row, bound) for row, bound in zip(tokens, bounds.tolist(), strict=True)]


def token_bounds(model: SlamAsr, batch: Batch, prompt: Tensor, max_new_tokens: int | None = None) -> Tensor:
    """Most new tokens of each utterance, EOS not counted, int64 [B] on the CPU; prompts take `prompt` [B] places."""
    bounds = EXTRA_TOKENS - (-num_frames(model, batch) * TOKENS_PER_SECOND // FRAMES_PER_SECOND)
    if max_new_tokens is not None:
        bounds = torch.full_like(bounds, max_new_tokens)
    longest = max_positions(model)
    return bounds if longest is None else torch.minimum(bounds, longest - prompt)


def num_frames(model: SlamAsr, batch: Batch) -> Tensor:
    """Encoder frames of each utterance, int64 [B], the same for audio and for its cached features."""
    if batch.audio is None:
        return batch.feature_cu.diff()
    assert model.encoder is not None, "audio needs an encoder"
    return model.encoder.out_len(batch.audio_cu.diff())


def max_positions(model: SlamAsr) -> int | None:
    """Places in the LLM's input, prompt and answer together; None if it does not say."""
    return getattr(model.llm.config, "max_position_embeddings", None)


def unfit(model: SlamAsr, frames: int) -> str | None:
    """Why an utterance of so many encoder frames cannot be transcribed, "too-short" or "too-long"; None if it can."""
    speech = model.adapter.out_len(frames)
    longest = max_positions(model)
    if speech < 1:
        return "too-short"
    words = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    return "too-long" if longest is not None and words + speech >= longest else None


def _search(model: SlamAsr, embeds: Tensor, mask: Tensor, bounds: Tensor, beams: int, synced_gpus: bool) -> Tensor:
    """New tokens int64 [B, N] on the CPU; after a row's EOS comes padding."""
    prompt = model.prompt
    model.llm.generation_config = GenerationConfig()  # else `generate` takes from it what ours leaves open
    tokens = model.llm.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=int(bounds.max()) + 1,  # room for the last EOS
            num_beams=beams,
            do_sample=False,
            length_penalty=1.0,
            early_stopping=False,
            use_cache=True,
            eos_token_id=prompt.eos_id,
            pad_token_id=prompt.pad_id,
        ),
        logits_processor=LogitsProcessorList([EndAtBound(bounds.to(embeds.device), beams, prompt.eos_id)]),
        synced_gpus=synced_gpus,
    )
    return tokens.cpu()


def _transcript(prompt: Prompt, row: Tensor, bound: int) -> Transcript:
    ids = row.tolist()
    ids = ids[: ids.index(prompt.eos_id)] if prompt.eos_id in ids else ids
    return Transcript(prompt.decode(ids), cut=len(ids) >= bound)


class EndAtBound(LogitsProcessor):
    """Leaves EOS as a row's only choice, at the score that the LLM gives it, once the row has its bound of tokens.

    In beam search every hypothesis of the utterance then ends, and the utterance is finished whatever the others do.
    A stopping criterion would not do: it would end hypotheses without EOS, and only the best ones of a step.
    """

    def __init__(self, bounds: Tensor, beams: int, eos_id: int) -> None:
        """bounds [B] on the scores' device; rows come as B x beams."""
        self.bounds = bounds.repeat_interleave(beams)
        self.first = int(bounds.min())
        self.eos_id = eos_id

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [B x beams, tokens so far], scores [B x beams, V] -> scores."""
        if input_ids.shape[1] < self.first:
            return scores
        closed = (self.bounds <= input_ids.shape[1])[:, None].repeat(1, scores.shape[1])
        closed[:, self.eos_id] = False
        return scores.masked_fill(closed, -torch.inf)
