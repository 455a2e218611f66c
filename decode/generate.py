"""Speech to text: greedy or beam search over the frozen LLM, never sampling.

1. `SlamAsr.prompt_embeds` lays the prompts out, padded on the left, with a mask that positions follow from.
2. Every utterance gets a bound on its new tokens, from its own seconds alone. So batching never changes an utterance's
   transcript (up to rounding in half precision).
3. transformers' `generate` searches (search.py), under a configuration of ours: what a checkpoint's
   generation_config.json asks for (temperature, repetition penalty, suppressed tokens ...) is not applied.
4. An answer that begins to loop is ended at once. Answers that are no transcripts (guard.py) are searched once more,
   in batches of their own, so that the others' tokens never change.

B utterances, S width of the prompts, N new tokens, V vocabulary."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from decode import guard
from decode.options import Alternative, Answer, DecodeOptions
from decode.prefix import Prompts
from decode.search import Hypothesis, Search, search
from model.batch import Batch
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr

TOKENS_PER_SECOND = 25
"""The fastest of 2,608 LibriSpeech utterances has 23 characters a second (5.3 words), so this is enough even for a
tokenizer with one token a character. It only bounds what a model that does not stop can cost."""
EXTRA_TOKENS = 8  # for answers to less than a second of speech
SILENT_TOKENS = 32
SAFER_PENALTY = 1.2  # repetition penalty of the second search, see docs/decoding.md


@torch.no_grad()
def transcripts(model: SlamAsr, batch: Batch, options: DecodeOptions) -> list[Answer]:
    """B answers, with dropout off; the batch may be on any device. UserError if an utterance is `unfit`. With
    `synced_gpus` a collective, which has no second search, as ranks would search unequally often."""
    was_training = model.training
    model.eval()
    try:
        embeds, mask = model.prompt_embeds(batch.to(model.device))  # [B, S, H], [B, S]
        prompts = Prompts(embeds, mask, len(model.prompt.prefix_ids))
        bounds = token_bounds(model, batch, mask.sum(1).cpu(), options.max_new_tokens)
        how = first_search(model, options)
        found = search(model.llm, prompts, bounds, how)
        answers = [_answer(model, *pair, options) for pair in zip(found, bounds.tolist(), strict=True)]
        if not options.strict and not options.synced_gpus:
            for note in ("loop", "echo", "refusal", *(["cut"] if options.max_new_tokens is None else [])):
                _search_again(model, prompts, bounds, options, note, answers)
    finally:
        model.train(was_training)
    return answers


def first_search(model: SlamAsr, options: DecodeOptions) -> Search:
    """The search of `options`, which ends loops unless `strict`."""

    def is_loop(ids: list[int]) -> bool:
        return guard.is_loop(model.prompt.decode(ids)) or _is_silent(model, ids)

    return Search(
        model.prompt.eos_id,
        model.prompt.pad_id,
        options.beams,
        options.nbest,
        options.length_penalty,
        options.repetition_penalty,
        is_loop=None if options.strict else is_loop,
        synced=options.synced_gpus,
    )


def token_bounds(model: SlamAsr, batch: Batch, prompt: Tensor, max_new_tokens: int | None = None) -> Tensor:
    """Most new tokens of each utterance, EOS not counted, int64 [B] on the CPU; prompts take `prompt` [B] places."""
    samples = model.num_frames(batch) * model.samples_per_frame
    bounds = EXTRA_TOKENS - (-samples * TOKENS_PER_SECOND // SAMPLE_RATE)
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


def _is_silent(model: SlamAsr, ids: list[int]) -> bool:
    """Whether the last tokens have no text at all, as a repeated special token."""
    return len(ids) >= SILENT_TOKENS and not guard.has_words(model.prompt.decode(ids[-SILENT_TOKENS:]))


def _answer(model: SlamAsr, found: list[Hypothesis], bound: int, options: DecodeOptions) -> Answer:
    best, prompt = found[0], model.prompt
    if any(map(math.isnan, best.logprobs)):
        return Answer("", "nan")
    text = prompt.decode(best.tokens)
    note = "cut" if len(best.tokens) >= bound else ""
    if not options.strict:
        silent = _is_silent(model, best.tokens)
        note = "loop" if silent else guard.fault_of(text, prompt.template) or note
    ended = note not in ("cut", "loop")
    listed = found if options.nbest > 1 else []
    return Answer(
        text,
        note,
        tuple(best.tokens),
        tuple(best.logprobs if ended else best.logprobs[:-1]),
        tuple(Alternative(prompt.decode(one.tokens), one.score) for one in listed),
    )


def _search_again(
    model: SlamAsr, prompts: Prompts, bounds: Tensor, options: DecodeOptions, note: str, answers: list[Answer]
) -> None:
    """Replaces the answers that have this note by those of a safer search, where these are better.

    Their bound is as many characters as the first had tokens, which speech does not exceed."""
    rows = [i for i, answer in enumerate(answers) if answer.note == note]
    if not rows:
        return
    mask = prompts.mask[rows]
    width = int(mask.sum(1).max())
    own = Prompts(prompts.embeds[rows][:, -width:], mask[:, -width:], prompts.prefix)
    how = first_search(model, options)
    if note in ("loop", "cut"):
        how = replace(how, repetition_penalty=max(how.repetition_penalty, SAFER_PENALTY))
    else:
        words = [*model.prompt.prefix_ids, *model.prompt.suffix_ids]
        how = replace(how, forbidden=[words if note == "echo" else answers[i].tokens for i in rows])
    tight = torch.tensor([_in_characters(int(bounds[i]), answers[i]) for i in rows])
    found = search(model.llm, own, tight, how)
    for i, bound, hypotheses in zip(rows, tight.tolist(), found, strict=True):
        second = _answer(model, hypotheses, bound, options)
        shorter = min(_cleaned(model, answers[i]), _cleaned(model, second), key=lambda one: len(one.text))
        answers[i] = (shorter if second.note else second)._replace(note=note)


def _cleaned(model: SlamAsr, answer: Answer) -> Answer:
    """The answer up to the end of its loop's first round, if it has one."""
    end, count = guard.loop_start(answer.text), len(answer.tokens)
    if end is None:
        return answer
    texts = (model.prompt.decode(list(answer.tokens[:n])) for n in range(count))
    tokens = answer.tokens[: next((n for n, text in enumerate(texts) if len(text) >= end), count)]
    return answer._replace(
        text=model.prompt.decode(list(tokens)), tokens=tokens, logprobs=answer.logprobs[: len(tokens)]
    )


def _in_characters(bound: int, answer: Answer) -> int:
    """Tokens of as many characters as `bound`, at the answer's own characters a token."""
    return -(-bound * max(1, len(answer.tokens)) // max(1, len(answer.text), len(answer.tokens)))
