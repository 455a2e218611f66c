"""Greedy or beam search by transformers' `generate`, with the logits processors that limit, forbid and record tokens.

B utterances, R rows of the search (B x beams), N new tokens, V vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from decode.prefix import Prompts, prompt_cache
from model.llm import logits_at

UNFILLED = -1e8  # transformers' beam search gives unfilled hypotheses a score below this
LOGITS_AT_ONCE = 2**26  # 0.25 GB in float32
LOOP_CHECK_EVERY = 16  # tokens
FORBIDDEN_RUN = 3  # tokens


@dataclass(frozen=True)
class Search:
    """Options of one search."""

    eos_id: int
    pad_id: int
    beams: int = 1
    nbest: int = 1
    length_penalty: float = 0.0
    repetition_penalty: float = 1.0
    is_loop: Callable[[list[int]], bool] | None = None  # given an answer's tokens so far; true stops it
    forbidden: Sequence[Sequence[int]] = ()  # [B] tokens: no FORBIDDEN_RUN of them in a row in an answer
    share: bool = True  # compute the common part of the prompts once
    synced: bool = False  # as DecodeOptions.synced_gpus


class Hypothesis(NamedTuple):
    """One hypothesis of the search."""

    tokens: list[int]  # without EOS
    score: float  # sum of the log-probabilities, after penalties, EOS included, / tokens ** length_penalty; 0 if greedy
    logprobs: list[float]  # nats, before penalties, of the tokens and EOS; the best hypothesis only


@torch.no_grad()
def search(llm: Any, prompts: Prompts, bounds: Tensor, how: Search) -> list[list[Hypothesis]]:
    """Up to `nbest` hypotheses of each of B utterances, best first; at least one, which may be empty.

    `bounds` [B] on the CPU: maximum tokens of each. With `synced` a collective."""
    device, most_new = prompts.embeds.device, int(bounds.max()) + 1  # room for the last EOS
    ahead, cache = prompts, None
    if how.share and not how.synced:  # all ranks must compute equally often
        ahead, cache = prompt_cache(llm, prompts, how.beams, most_new)
    recorder = Recorder()
    steps: list[LogitsProcessor] = [recorder] if how.beams == 1 else []
    if how.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
    if how.forbidden:
        ids: Any = _padded(how.forbidden, -1, device)
        steps.append(EncoderNoRepeatNGramLogitsProcessor(FORBIDDEN_RUN, ids))
    if how.is_loop is not None:
        steps.append(EndLoops(how.is_loop, how.beams, how.eos_id))
    steps.append(EndAtBound(bounds.to(device), how.beams, how.eos_id))
    if how.beams > 1:
        steps.append(KeepNoScores())
    llm.generation_config = GenerationConfig()  # else `generate` takes what ours does not set from it
    made = llm.generate(
        inputs_embeds=ahead.embeds,
        attention_mask=ahead.mask,
        generation_config=GenerationConfig(
            max_new_tokens=most_new,
            num_beams=how.beams,
            num_return_sequences=how.nbest,
            length_penalty=how.length_penalty if how.beams > 1 else None,  # else transformers warns of it
            do_sample=False,
            use_cache=True,
            eos_token_id=how.eos_id,
            pad_token_id=how.pad_id,
            return_dict_in_generate=True,
            output_scores=how.beams > 1,  # for those of whole sequences
        ),
        logits_processor=LogitsProcessorList(steps),
        synced_gpus=how.synced,
        **({} if cache is None else {"past_key_values": cache}),
    )
    rows, eos = made.sequences.tolist(), how.eos_id
    tokens = [row[: row.index(eos)] if eos in row else row for row in rows]
    if how.beams == 1:
        logprobs = recorder.logprobs(made.sequences)
        return [[Hypothesis(ids, 0.0, row[: len(ids) + 1])] for ids, row in zip(tokens, logprobs, strict=True)]
    scores = made.sequences_scores.tolist()
    best = [
        ids if score > UNFILLED else [] for ids, score in zip(tokens[:: how.nbest], scores[:: how.nbest], strict=True)
    ]
    logprobs = answer_logprobs(llm, prompts, best, how)
    lists = []
    for i, own in enumerate(logprobs):
        places = range(i * how.nbest + 1, (i + 1) * how.nbest)
        others = [Hypothesis(tokens[j], scores[j], []) for j in places if scores[j] > UNFILLED]
        lists.append([Hypothesis(best[i], scores[i * how.nbest], own), *others])
    return lists


@torch.no_grad()
def answer_logprobs(llm: Any, prompts: Prompts, answers: list[list[int]], how: Search) -> list[list[float]]:
    """Log-probabilities in nats of every answer's tokens and EOS, from a forward pass over prompt and answer."""
    device, vocabulary = prompts.embeds.device, llm.config.get_text_config().vocab_size
    longest = max(map(len, answers))
    rows = len(answers) if how.synced else max(1, LOGITS_AT_ONCE // (vocabulary * (longest + 1)))
    logprobs = []
    for first in range(0, len(answers), rows):
        part = slice(first, first + rows)
        own, width = answers[part], prompts.mask.shape[1]
        ids = _padded(own, how.eos_id, device)
        fed_in = torch.tensor([[1] * len(a) + [0] * (ids.shape[1] - len(a)) for a in own], device=device)
        embeds = torch.cat([prompts.embeds[part], llm.get_input_embeddings()(ids)], 1)
        mask = torch.cat([prompts.mask[part], fed_in.view(len(own), -1).to(prompts.mask)], 1)
        places = [(row, width - 1 + place) for row, a in enumerate(own) for place in range(len(a) + 1)]
        in_row, column = torch.tensor(places, device=device).T
        logits = logits_at(llm, embeds, mask, column, in_row).float()  # [sum of (tokens + 1), V]
        targets = torch.tensor([token for a in own for token in (*a, how.eos_id)], device=device)
        found = (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)).tolist()
        for answer in own:
            logprobs.append(found[: len(answer) + 1])
            del found[: len(answer) + 1]
    return logprobs


def _padded(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> Tensor:
    width = max(map(len, rows))
    padded = [[*row, *[padding] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).view(len(rows), width)


class Recorder(LogitsProcessor):
    """Records the log-probability of each token chosen by greedy search; the first processor, so that these are before
    penalties."""

    def __init__(self) -> None:
        self.chosen: list[Tensor] = []  # [R] of each step but the last
        self.last: tuple[Tensor, Tensor] | None = None  # scores [R, V] of the last step, and their log-sum-exp [R]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [R, tokens so far], scores [R, V] -> scores."""
        self._choose(input_ids)
        self.last = scores, scores.logsumexp(1)
        return scores

    def _choose(self, tokens: Tensor) -> None:
        if self.last is not None:
            scores, total = self.last
            self.chosen.append(scores.gather(1, tokens[:, -1:])[:, 0] - total)

    def logprobs(self, tokens: Tensor) -> list[list[float]]:
        """Of the finished sequences [R, N]."""
        self._choose(tokens)
        return torch.stack(self.chosen, 1).tolist()


class KeepNoScores(LogitsProcessor):
    """Last of the processors: where the scores of whole sequences are asked for, `generate` keeps a clone of all scores
    [R, V] of every step, 3 GB in all with a vocabulary of 150k. Nobody reads those, so the clone is empty."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [R, tokens so far], scores [R, V] -> scores."""
        scores = scores.view_as(scores)  # a tensor of our own
        scores.clone = partial(torch.empty, 0)
        return scores


class EndAtBound(LogitsProcessor):
    """Allows only EOS, at the LLM's score for it, once a row has its maximum tokens. A stopping criterion would end
    beam hypotheses without EOS, and only the best ones of a step."""

    def __init__(self, bounds: Tensor, beams: int, eos_id: int) -> None:
        """bounds [B] on the scores' device; rows come as B x beams."""
        self.bounds = bounds.repeat_interleave(beams)
        self.first = int(bounds.min())
        self.eos_id = eos_id

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [R, tokens so far], scores [R, V] -> scores."""
        if input_ids.shape[1] < self.first:
            return scores
        return only_eos(scores, self.bounds <= input_ids.shape[1], self.eos_id)


class EndLoops(LogitsProcessor):
    """Stops answers that loop, checked every LOOP_CHECK_EVERY tokens. In a beam, looping hypotheses are dropped, as
    their probable tokens would win; if all loop, they are ended. Other rows keep their scores exactly."""

    def __init__(self, is_loop: Callable[[list[int]], bool], beams: int, eos_id: int) -> None:
        self.is_loop, self.beams, self.eos_id = is_loop, beams, eos_id

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [R, tokens so far], scores [R, V] -> scores."""
        if input_ids.shape[1] == 0 or input_ids.shape[1] % LOOP_CHECK_EVERY:
            return scores
        found = [self.eos_id not in row and self.is_loop(row) for row in input_ids.tolist()]
        if not any(found):
            return scores
        loops = torch.tensor(found, device=scores.device)
        all_do = loops.view(-1, self.beams).all(1).repeat_interleave(self.beams)
        return only_eos(scores, all_do, self.eos_id).masked_fill((loops & ~all_do)[:, None], -torch.inf)


def only_eos(scores: Tensor, rows: Tensor, eos_id: int) -> Tensor:
    """The scores [R, V], with -inf for every token but EOS in the rows where `rows` [R] is true."""
    closed = rows[:, None].repeat(1, scores.shape[1])
    closed[:, eos_id] = False
    return scores.masked_fill(closed, -torch.inf)
