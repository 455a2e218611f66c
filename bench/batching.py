"""How others cut a corpus into micro-batches; written again here for comparison.

Every function takes the LLM tokens of the samples and gives micro-batches of sample numbers in the order of training.
"""

import numpy as np


def random_batches(tokens: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """`size` samples each, at random: what a DataLoader does that is told no more. A last, smaller one is kept."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    return [order[start : start + size] for start in range(0, len(order), size)]


def dynamic_batches(tokens: np.ndarray, budget: int, seed: int) -> list[np.ndarray]:
    """SLAM-LLM's dynamic batches: samples in random order, until samples x longest would pass the budget."""
    batches, batch, longest = [], [], 0
    for number in np.random.default_rng(seed).permutation(len(tokens)).tolist():
        longest = max(longest, int(tokens[number]))
        if batch and longest * (len(batch) + 1) > budget:
            batches.append(np.array(batch))
            batch, longest = [], int(tokens[number])
        batch.append(number)
    return [*batches, np.array(batch)]


def bucket_batches(tokens: np.ndarray, budget: int, seed: int, ranks: int, buckets: int = 30) -> list[np.ndarray]:
    """Duration buckets with a batch size each, as lhotse and NeMo have them.

    The buckets hold equal sums of tokens; a bucket's batch is as many samples as fit at its longest. All ranks take the
    same bucket in a step (their `sync_buckets`), so `ranks` batches in a row are of one, if any bucket has as many;
    else each rank takes what comes. What is left over is dropped.
    """
    random = np.random.default_rng(seed)
    order = np.argsort(tokens, kind="stable")
    shares = tokens[order].cumsum() * buckets // (tokens.sum() + 1)
    batches = [_whole_batches(random.permutation(order[shares == bucket]), tokens, budget) for bucket in range(buckets)]
    rows = [part[i : i + ranks] for part in batches for i in range(0, len(part) - ranks + 1, ranks)]
    if not rows:
        rows = [[batch] for part in batches for batch in part]
    return [batch for number in random.permutation(len(rows)) for batch in rows[number]]


def _whole_batches(inside: np.ndarray, tokens: np.ndarray, budget: int) -> list[np.ndarray]:
    size = max(1, int(budget // tokens[inside].max())) if len(inside) else 1
    return list(inside[: len(inside) // size * size].reshape(-1, size))
