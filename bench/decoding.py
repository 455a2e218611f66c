"""The cost of decoding: batched against one by one, prompts shared or not, and an LLM that loops, guarded or not.

`python -m bench.decoding`. The stand-in models on cached features of the demo's dev speech; greedy and 4 beams. Each
pair runs side by side with interleaved repeats; printed are the ratio of their wall-clock times, second over first,
and the real-time factors (seconds of decoding per second of audio). The two cases of a pair generate the same tokens,
except with the guard, so the ratio is also that of tokens per second. The LLM that loops is the stand-in without
attention: each token depends on the one before alone, so every answer becomes periodic.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from bench.corpora import PLACE, ROOT
from bench.feature_dtypes import make_features
from bench.timing import median, ratios, side_by_side, spread
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index
from data_prep.shards.reader import read_batch
from decode.dataset import decode_ids, plan_batches
from decode.generate import first_search, token_bounds
from decode.options import DecodeOptions
from decode.prefix import Prompts
from decode.search import search
from model.prompt import Prompt
from model.slam_asr import SlamAsr
from model.weights import load_for_decoding

UTTERANCES, REPEATS = 64, 3
LONG_PREFIX = "<|user|> You are an assistant that writes down what people say word by word in small letters: <speech> :"


def main(scale: float = 1.0) -> None:
    warnings.filterwarnings("ignore")
    place = PLACE / f"decoding-{scale:g}"
    make_features(place, "dev", max(8, round(UTTERANCES * scale)), ("float16",))
    index = read_index(place / "features" / "float16")
    model = load_for_decoding(ROOT / "model" / "stand_in" / "adapter", dtype="float32", with_encoder=False)
    seconds = float(index.samples.sum()) / 16_000
    for beams in (1, 4):
        options = DecodeOptions(beams=beams)

        works = {
            "batched": _decoding(model, index, options),
            "alone": _decoding(model, index, replace(options, batch_tokens=1)),
        }
        _say(f"{beams} beams, batched, and one by one", works, seconds)
        for template in (model.prompt.template, LONG_PREFIX):
            prompt = Prompt(model.prompt.tokenizer, template)
            works = {name: _searching(model, prompt, index, beams, name == "shared") for name in ("shared", "not")}
            _say(f"{beams} beams, prefix of {len(prompt.prefix_ids)} tokens shared, not shared", works, seconds)
    looping = copy.deepcopy(model)
    for layer in looping.llm.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    for beams in (1, 4):
        options = {"guard": DecodeOptions(beams=beams), "strict": DecodeOptions(beams=beams, strict=True)}
        works = {name: _decoding(looping, index, given) for name, given in options.items()}
        _say(f"{beams} beams, an LLM that loops, with the guard and without", works, seconds)


def _decoding(model: SlamAsr, index: ShardIndex, options: DecodeOptions) -> Callable[[], object]:
    return lambda: decode_ids(model, index, range(len(index)), options)


def _searching(model: SlamAsr, prompt: Prompt, index: ShardIndex, beams: int, share: bool) -> Callable[[], object]:
    """The search alone, on batches that are prepared beforehand."""
    model = copy.copy(model)
    model.prompt = prompt
    how = replace(first_search(model, DecodeOptions(beams=beams)), share=share)
    prepared = []
    for ids in plan_batches([int(model.adapter.out_len(int(n))) for n in index.frames], 2000 // beams):
        batch = read_batch(index, ids, prompt)
        with torch.no_grad():
            embeds, mask = model.prompt_embeds(batch)
        prepared.append((Prompts(embeds, mask, len(prompt.prefix_ids)), token_bounds(model, batch, mask.sum(1))))
    return lambda: [search(model.llm, prompts, bounds, how) for prompts, bounds in prepared]


def _say(what: str, works: dict[str, Callable[[], object]], seconds: float) -> None:
    """Prints one line: the time of the second over that of the first."""
    walls = {name: [cost.wall for cost in costs] for name, costs in side_by_side(works, REPEATS).items()}
    (first, ours), (second, theirs) = walls.items()
    times = ratios(theirs, ours)
    factors = f"real-time factor {median(ours) / seconds:.3g} {first}, {median(theirs) / seconds:.3g} {second}"
    print(f"{what}: {median(times):.3g} x ({spread(times)}); {factors}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
