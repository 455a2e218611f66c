"""Where everything stands in the LLM's input: `prefix | speech | suffix | answer`.

One row is one utterance, padded on the left.

Training and generation use this one layout, so that a recogniser never meets positions it was not trained on.
B utterances, S width of the padded input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Flat places (row x S + column) in the padded [B, S] input; all tensors on the CPU."""

    rows: int
    width: int
    mask: Tensor
    """int64 [B, S], 1 where there is input."""
    prefix: Tensor
    """int64 [B x prefix length]."""
    speech: Tensor
    """int64 [sum of speech lengths]."""
    suffix: Tensor
    """int64 [B x suffix length]."""
    answer: Tensor
    """int64 [sum of answer lengths], the answer tokens that are fed in."""


def lay_out(prefix: int, speech: Tensor, suffix: int, answer: Tensor) -> Layout:
    """The layout for B utterances with `speech` [B] embeddings and `answer` [B] fed-in answer tokens each."""
    lengths = prefix + speech + suffix + answer
    width = int(lengths.max())
    starts = torch.arange(len(lengths)) * width + (width - lengths)
    mask = (torch.arange(width)[None] >= (width - lengths)[:, None]).to(torch.int64)
    after_prefix = starts + prefix
    after_speech = after_prefix + speech
    return Layout(
        rows=len(lengths),
        width=width,
        mask=mask,
        prefix=_runs(starts, torch.full_like(starts, prefix)),
        speech=_runs(after_prefix, speech),
        suffix=_runs(after_speech, torch.full_like(starts, suffix)),
        answer=_runs(after_speech + suffix, answer),
    )


def _runs(starts: Tensor, lengths: Tensor) -> Tensor:
    """starts [B], lengths [B] -> the integers of every run [start, start + length), end to end."""
    offsets = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + offsets
