"""The LLM on a vLLM server in place of one in memory: what is checked at the start, and the greedy search.

Every window is a request of its own. It ends at our EOS alone (`ignore_eos` switches off those of the model's
generation_config.json), so that its tokens are those of decode/search.py. A loop is not stopped at the server: it runs
to its limit and is cut here, where search.py stops it."""

import os
import weakref
from typing import Any

import torch
from torch import Tensor

from decode.prefix import Prompts
from decode.search import LOOP_CHECK_EVERY, Hypothesis, Search
from decode.vllm.payload import as_base64
from decode.vllm.server import Completion, Server, together
from model.errors import UserError, hint
from model.slam_asr import SlamAsr

PROBE_TOKENS = 8
PROBES = (1, 2, 3)  # quarters of the vocabulary where their ids begin
CLOSE_NATS = 0.1  # of one log-probability; bfloat16 rounds by hundredths


class ServedLlm:
    """A model of a server."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        weakref.finalize(self, server.client.close)

    def search(self, prompts: Prompts, bounds: Tensor, how: Search) -> list[list[Hypothesis]]:
        """As decode/search.py, of one beam; `score` is 0, and log-probabilities lack EOS where none was generated."""
        if how.beams > 1:
            raise UserError(f"beams {how.beams}: with --backend vllm the search is greedy; leave beams at 1")
        if how.forbidden:
            raise AssertionError("vLLM's completions cannot forbid sequences of tokens")
        rows = [row[real > 0] for row, real in zip(prompts.embeds, prompts.mask, strict=True)]
        items = list(zip(rows, bounds.tolist(), strict=True))
        return together(lambda item: [self._greedy(item[0], item[1], how)], items)

    def _greedy(self, embeds: Tensor, bound: int, how: Search) -> Hypothesis:
        """embeds [S, H]."""
        found = self.complete(embeds, bound, how.eos_id, how.repetition_penalty)
        eos, tokens = how.eos_id, found.tokens
        if not found.stopped and len(tokens) < bound:
            limit = f"{self.server.shown} ended an answer at {len(tokens)} of {bound} tokens"
            raise UserError(f"{limit}, by a max_new_tokens of its own; start it with --generation-config vllm")
        tokens = tokens[: tokens.index(eos)] if eos in tokens else tokens
        if how.is_loop is not None:
            places = range(LOOP_CHECK_EVERY, len(tokens) + 1, LOOP_CHECK_EVERY)
            tokens = next((tokens[:end] for end in places if how.is_loop(tokens[:end])), tokens)
        return Hypothesis(tokens, 0.0, found.logprobs[: len(tokens) + 1])

    def complete(self, prompt: Tensor | list[int], bound: int, eos_id: int, repetition_penalty: float) -> Completion:
        """The most likely tokens after a prompt of embeddings [S, H] or of token ids, up to EOS or `bound`. All that a
        generation_config.json could set is stated, as the server takes the rest from there."""
        given = {"prompt": prompt} if isinstance(prompt, list) else {"prompt_embeds": as_base64(prompt)}
        fixed = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 0, "n": 1}
        ends = {"max_tokens": bound, "ignore_eos": True, "stop_token_ids": [eos_id]}
        asked = {"logprobs": 0, "return_token_ids": True, "repetition_penalty": repetition_penalty}
        return self.server.complete({"model": self.name, **given, **fixed, **ends, **asked})


def connect(model: SlamAsr, url: str, name: str, source: str) -> str:
    """Gives a recogniser that has only its LLM's input embeddings the LLM of the server at `url`; returns its name
    there: `name`, or, if empty, that of the entry whose id or path is `source`. UserError if the server is not there,
    has no such model, takes no prompt embeddings, or if they mean something else to it than the same token ids."""
    server = Server(url)
    served = ServedLlm(server, "")
    entry = _entry(server, name, source)
    served.name = entry["id"]
    config, longest = model.llm.config.get_text_config(), entry.get("max_model_len")
    if isinstance(longest, int) and longest < (model.max_positions or longest + 1):
        config.max_position_embeddings = longest
    _require_same_embeddings(model, served)
    model.llm.served = served
    return served.name


def _entry(server: Server, name: str, source: str) -> dict[str, Any]:
    entries, places = server.models(), {source, os.path.realpath(source)}
    for entry in entries:
        if name == entry["id"] or (not name and places & {entry["id"], str(entry.get("root"))}):
            return entry
    ids = [entry["id"] for entry in entries]
    shown = ", ".join(ids) or "no model"
    if name:
        raise UserError(f"{server.shown} has no model {name!r}{hint(name, ids)}; it serves {shown}")
    which = f"if {ids[0]!r} is this LLM, write --backend vllm:URL#{ids[0]}" if ids else "start it with this LLM"
    raise UserError(f"{server.shown} serves {shown}, and the adapter's LLM is {source!r}; {which}")


def _require_same_embeddings(model: SlamAsr, served: ServedLlm) -> None:
    """UserError unless the server computes the same from embeddings as from the token ids that they are of: then its
    input embeddings are ours. One of PROBES must agree, as rounding may change the choice between two tokens."""
    size = len(model.prompt.tokenizer)
    if not any(_computes_the_same(model, served, torch.arange(PROBE_TOKENS) + size * n // 4) for n in PROBES):
        other = f"{served.name!r} of {served.server.shown} has other input embeddings than the adapter's LLM"
        raise UserError(f"{other}; serve that LLM, or name its folder with --llm")


@torch.no_grad()
def _computes_the_same(model: SlamAsr, served: ServedLlm, ids: Tensor) -> bool:
    embed: Any = model.llm.get_input_embeddings()
    prompts = (embed(ids.to(embed.weight.device)), ids.tolist())
    ours, theirs = (served.complete(prompt, PROBE_TOKENS, model.prompt.eos_id, 1.0) for prompt in prompts)
    pairs = zip(ours.logprobs, theirs.logprobs, strict=False)
    return ours.tokens == theirs.tokens and all(abs(one - other) < CLOSE_NATS for one, other in pairs)
