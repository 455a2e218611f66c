"""Attention of a packed micro-batch on a CPU, forward and backward: ours against the `sdpa` of its own dtype.

`python -m bench.attention`. 500 tokens with the heads of SmolLM2-135M (9, of which 3 for keys and values, of 64), cut
into utterances of one length; one thread. Printed are the CPU times of a call of all utterances, and their ratio: where
it is below 1, utterances are too long to attend in float32 (SHORT of model/packing.py).
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import torch

import model.packing
from bench.timing import median, ratios, side_by_side, spread
from model.packing import packed_attention, packed_lengths

TOKENS, HEADS, KEY_HEADS, WIDTH = 500, 9, 3, 64
LENGTHS = (20, 50, 100, 250, 500, 1000)
CALLS, REPEATS = 10, 5


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for dtype in (torch.bfloat16, torch.float16):
        for length in LENGTHS:
            _say(dtype, length)


def _say(dtype: torch.dtype, length: int) -> None:
    """Prints one line: the time in the own dtype over that in float32."""
    number = max(1, TOKENS // length)
    packing = packed_lengths(torch.full((number,), length), torch.device("cpu"))
    parts = query, key, value = tuple(
        torch.randn(1, number * length, heads, WIDTH).to(dtype).transpose(1, 2).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    upstream = torch.randn(1, number * length, HEADS, WIDTH).to(dtype)
    module: Any = SimpleNamespace(is_causal=True, num_key_value_groups=HEADS // KEY_HEADS)

    def work(short: int) -> None:
        model.packing.SHORT = short
        for _ in range(CALLS):
            attended, _ = packed_attention(module, query, key, value, None, packing)
            torch.autograd.grad(attended, parts, upstream)

    costs = side_by_side({"float32": lambda: work(length), "own": lambda: work(0)}, REPEATS)
    taken = {name: [one.cpu for one in found] for name, found in costs.items()}
    times = ratios(taken["own"], taken["float32"])
    each = {name: 1000 * median(seconds) / CALLS for name, seconds in taken.items()}
    name = str(dtype).removeprefix("torch.")
    print(
        f"{number} of {length} tokens, {name}: {each['own']:.1f} ms in {name}, {each['float32']:.1f} ms in float32: "
        f"{median(times):.2f} x ({spread(times)})",
        flush=True,
    )


if __name__ == "__main__":
    main()
