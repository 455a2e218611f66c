"""Speech to text: greedy or beam search over the frozen LLM, never sampling.

1. `SlamAsr.prompt_embeds` lays the prompts out, padded on the left, with a mask that positions follow from.
2. Every utterance gets a bound on its new tokens, from its own length alone. So batching never changes an utterance's
   transcript (up to rounding in half precision).
3. transformers' `generate` searches, under a configuration of ours: what a checkpoint's generation_config.json asks for
   (temperature, repetition penalty, suppressed tokens ...) is not applied.

B utterances, S width of the prompts, N new tokens, V vocabulary."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from model.batch import Batch
from model.slam_asr import SlamAsr

FRAMES_PER_SECOND = 50  # of the encoders; Moonshine has 41.7, whose answers are bounded at 21 tokens a second
TOKENS_PER_SECOND = 25
"""The fastest of 2,608 LibriSpeech utterances has 23 characters a second (5.3 words), so this is enough even for a
tokenizer with one token a character. It only bounds what a model that does not stop can cost."""
EXTRA_TOKENS = 8  # for answers to less than a second of speech


@dataclass(frozen=True)
class DecodeOptions:
    """How to search, and how much at a time."""

    beams: int = 1  # hypotheses kept; 1 is greedy search
    max_new_tokens: int | None = None  # LLM tokens an answer; None bounds each by its utterance's length
    batch_tokens: int = 2000
    """Speech embeddings of a batch times beams, padding counted: bounds memory, does not change results. At the usual
    10 a second 200 s of speech, whose keys and values take 0.2 GB in a 1B LLM, 4 GB in a 7B one."""
    synced_gpus: bool = False
    """True under ZeRO-3 on several ranks: decoding is then a collective, which all ranks call equally often."""
    nbest: int = 1  # alternatives of an answer, the best among them; at most `beams`
    length_penalty: float = 1.0  # beams: a hypothesis's score is its log-probability / tokens ** this
    repetition_penalty: float = 1.0  # above 1: tokens that the answer already has become less likely
    strict: bool = False  # True: the first answer stands, whatever it looks like


class Alternative(NamedTuple):
    """One hypothesis of an n-best list."""

    text: str
    score: float  # log-probability in nats / tokens ** length_penalty, EOS included


class Answer(NamedTuple):
    """What the LLM wrote to one utterance."""

    text: str
    note: str = ""
    """Empty if the model ended it. "cut": the bound on new tokens did. "loop", "echo", "refusal": the first answer was
    one, and this text, unless `strict`, is of a second and safer search."""
    tokens: tuple[int, ...] = ()  # of the LLM, without EOS
    logprobs: tuple[float, ...] = ()  # nats, of each token and then of EOS, if the model ended the answer
    alternatives: tuple[Alternative, ...] = ()  # the n best, best first; empty unless nbest > 1

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities, 0 to 1."""
        return math.exp(sum(self.logprobs) / len(self.logprobs)) if self.logprobs else 0.0


@torch.no_grad()
def transcripts(model: SlamAsr, batch: Batch, options: DecodeOptions) -> list[Answer]:
    """B answers, with dropout off; the batch may be on any device. UserError if an utterance is `unfit`."""
    was_training = model.training
    model.eval()
    try:
        embeds, mask = model.prompt_embeds(batch.to(model.device))  # [B, S, H], [B, S]
        bounds = token_bounds(model, batch, mask.sum(1).cpu(), options.max_new_tokens)
        tokens = _search(model, embeds, mask, bounds, options)
    finally:
        model.train(was_training)
    eos = model.prompt.eos_id
    answers = [ids[: ids.index(eos)] if eos in ids else ids for ids in tokens.tolist()]
    pairs = zip(answers, bounds.tolist(), strict=True)
    return [Answer(model.prompt.decode(ids), "cut" if len(ids) >= bound else "", tuple(ids)) for ids, bound in pairs]


def token_bounds(model: SlamAsr, batch: Batch, prompt: Tensor, max_new_tokens: int | None = None) -> Tensor:
    """Most new tokens of each utterance, EOS not counted, int64 [B] on the CPU; prompts take `prompt` [B] places."""
    bounds = EXTRA_TOKENS - (-model.num_frames(batch) * TOKENS_PER_SECOND // FRAMES_PER_SECOND)
    if max_new_tokens is not None:
        bounds = torch.full_like(bounds, max_new_tokens)
    return bounds if model.max_positions is None else torch.minimum(bounds, model.max_positions - prompt)


def unfit(model: SlamAsr, frames: int) -> str | None:
    """Why an utterance of so many encoder frames cannot be transcribed, "too-short" or "too-long"; None if it can."""
    speech = model.adapter.out_len(frames)
    if speech < 1:
        return "too-short"
    words = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    return "too-long" if model.max_positions is not None and words + speech >= model.max_positions else None


def _search(model: SlamAsr, embeds: Tensor, mask: Tensor, bounds: Tensor, options: DecodeOptions) -> Tensor:
    """New tokens int64 [B, N] on the CPU; padding follows a row's EOS."""
    prompt, beams = model.prompt, options.beams
    model.llm.generation_config = GenerationConfig()  # else `generate` takes from it what ours leaves open
    tokens = model.llm.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=int(bounds.max()) + 1,  # room for the last EOS
            num_beams=beams,
            do_sample=False,
            use_cache=True,
            eos_token_id=prompt.eos_id,
            pad_token_id=prompt.pad_id,
        ),
        logits_processor=LogitsProcessorList([EndAtBound(bounds.to(embeds.device), beams, prompt.eos_id)]),
        synced_gpus=options.synced_gpus,
    )
    return tokens.cpu()


class EndAtBound(LogitsProcessor):
    """Leaves EOS as a row's only choice, at the score that the LLM gives it, once the row has its bound of tokens. A
    stopping criterion would end hypotheses of a beam without EOS, and only the best ones of a step."""

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
