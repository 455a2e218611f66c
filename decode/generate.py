"""Speech to text: greedy or beam search over the frozen LLM, never sampling.

1. `SlamAsr.prompt_embeds` builds the prompts, padded on the left, with a mask from which positions follow.
2. Every utterance gets a limit on its new tokens from its own duration alone, so batching never changes a transcript
   (up to rounding in half precision).
3. transformers' `generate` searches (search.py) with our configuration: the checkpoint's generation_config.json
   (temperature, repetition penalty, suppressed tokens ...) is not applied.
4. An answer that loops is stopped early. Utterances whose answer is not a transcript (guard.py) are searched once more,
   in separate batches, so that the others' tokens never change.

B utterances, S width of the prompts, N new tokens, V vocabulary."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from decode.guard import fault_of, has_words, is_loop, loop_start
from decode.options import Alternative, Answer, DecodeOptions
from decode.prefix import Prompts
from decode.search import Hypothesis, Search, search
from model.batch import Batch
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr

TOKENS_PER_SECOND = 25
"""The fastest of the 2,608 utterances of LibriSpeech's dev-clean-2 and train-clean-5 has 23 characters a second (5.3
words), so this is enough even for a tokenizer with one token per character. It limits the cost of an answer without
EOS."""
EXTRA_TOKENS = 8  # enough for utterances of less than a second
SILENT_TOKENS = 32  # in a row without text, as a repeated special token: a loop
SAFER_PENALTY = 1.2  # repetition penalty of the second search, see docs/decoding.md


@torch.no_grad()
def transcripts(model: SlamAsr, batch: Batch, options: DecodeOptions) -> list[Answer]:
    """The answers for B utterances, with dropout off; the batch may be on any device. UserError if an utterance is
    `unfit`. With `synced_gpus` a collective without a second search, as all ranks must search equally often."""
    was_training = model.training
    model.eval()
    try:
        embeds, mask = model.prompt_embeds(batch.to(model.device))  # [B, S, H], [B, S]
        prompts = Prompts(embeds, mask, len(model.prompt.prefix_ids))
        bounds = token_bounds(model, batch, mask.sum(1).cpu(), options.max_new_tokens)
        how = first_search(model, options)
        found = _found(model, prompts, bounds, how)
        answers = [_answer(model, *pair, options) for pair in zip(found, bounds.tolist(), strict=True)]
        if not options.strict and not options.synced_gpus:
            for note in _searched_again(model, options):
                _search_again(model, prompts, bounds, options, note, answers)
    finally:
        model.train(was_training)
    return answers


def first_search(model: SlamAsr, options: DecodeOptions) -> Search:
    """The search that `options` describe; it stops loops unless `strict`."""

    def loops(ids: list[int]) -> bool:
        return is_loop(model.prompt.decode(ids)) or _is_silent(model, ids)

    return Search(
        model.prompt.eos_id,
        model.prompt.pad_id,
        options.beams,
        options.nbest,
        options.length_penalty,
        options.repetition_penalty,
        is_loop=None if options.strict else loops,
        synced=options.synced_gpus,
    )


def token_bounds(model: SlamAsr, batch: Batch, prompt: Tensor, max_new_tokens: int | None = None) -> Tensor:
    """Maximum new tokens of each utterance, EOS not counted, int64 [B] on the CPU; `prompt` [B] are prompt lengths."""
    samples = model.num_frames(batch) * model.samples_per_frame
    bounds = EXTRA_TOKENS - (-samples * TOKENS_PER_SECOND // SAMPLE_RATE)
    if max_new_tokens is not None:
        bounds = torch.full_like(bounds, max_new_tokens)
    return bounds if model.max_positions is None else torch.minimum(bounds, model.max_positions - prompt)


def unfit(model: SlamAsr, frames: int) -> str | None:
    """Why an utterance of `frames` encoder frames cannot be transcribed, "too-short" or "too-long"; None if it can."""
    speech = model.adapter.out_len(frames)
    if speech < 1:
        return "too-short"
    words = len(model.prompt.prefix_ids) + len(model.prompt.suffix_ids)
    return "too-long" if model.max_positions is not None and words + speech >= model.max_positions else None


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions in `lengths`, longest first, in batches of rows x longest <= budget (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _is_silent(model: SlamAsr, ids: list[int]) -> bool:
    """Whether the last SILENT_TOKENS tokens have no text, as a repeated special token."""
    return len(ids) >= SILENT_TOKENS and not has_words(model.prompt.decode(ids[-SILENT_TOKENS:]))


def _answer(model: SlamAsr, found: list[Hypothesis], bound: int, options: DecodeOptions) -> Answer:
    best, prompt = found[0], model.prompt
    if any(map(math.isnan, best.logprobs)):
        return Answer("", "nan")
    text = prompt.decode(best.tokens)
    note = "cut" if len(best.tokens) >= bound else ""
    if not options.strict:
        silent = _is_silent(model, best.tokens)
        note = "loop" if silent else fault_of(text, prompt.template) or note
    ended = note not in ("cut", "loop")
    listed = found if options.nbest > 1 else []
    return Answer(
        text,
        note,
        tuple(best.tokens),
        tuple(best.logprobs if ended else best.logprobs[: len(best.tokens)]),
        tuple(Alternative(prompt.decode(one.tokens), one.score) for one in listed),
    )


def _found(model: SlamAsr, prompts: Prompts, bounds: Tensor, how: Search) -> list[list[Hypothesis]]:
    """By the LLM in memory, or by the server that has it (decode/backend.py)."""
    served = getattr(model.llm, "served", None)
    return search(model.llm, prompts, bounds, how) if served is None else served.search(prompts, bounds, how)


def _searched_again(model: SlamAsr, options: DecodeOptions) -> list[str]:
    """The notes of answers that are searched once more; a server cannot forbid the tokens of echoes and refusals."""
    forbidding = [] if getattr(model.llm, "served", None) else ["echo", "refusal"]
    return ["loop", *forbidding, *(["cut"] if options.max_new_tokens is None else [])]


def _search_again(
    model: SlamAsr, prompts: Prompts, bounds: Tensor, options: DecodeOptions, note: str, answers: list[Answer]
) -> None:
    """Replaces the answers that have this note with those of a safer search, where these are better.

    The first limit, taken as characters and not tokens, is the limit of the second; speech stays below it."""
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
    found = _found(model, own, tight, how)
    for i, bound, hypotheses in zip(rows, tight.tolist(), found, strict=True):
        second = _answer(model, hypotheses, bound, options)
        shorter = min(_cleaned(model, answers[i]), _cleaned(model, second), key=lambda one: len(one.text))
        answers[i] = (shorter if second.note else second)._replace(note=note)


def _cleaned(model: SlamAsr, answer: Answer) -> Answer:
    """The answer up to the end of its loop's first round, if it loops."""
    end, count = loop_start(answer.text), len(answer.tokens)
    if end is None:
        return answer
    texts = (model.prompt.decode(list(answer.tokens[:n])) for n in range(count))
    tokens = answer.tokens[: next((n for n, text in enumerate(texts) if len(text) >= end), count)]
    return answer._replace(
        text=model.prompt.decode(list(tokens)), tokens=tokens, logprobs=answer.logprobs[: len(tokens)]
    )


def _in_characters(bound: int, answer: Answer) -> int:
    """The tokens that `bound` characters take, at the answer's own ratio of tokens to characters."""
    return -(-bound * max(1, len(answer.tokens)) // max(1, len(answer.text), len(answer.tokens)))
