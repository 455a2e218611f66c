"""Where everything is in the LLM's input: `prefix | speech | suffix | answer`, the same in training and generation.

Utterances lie end to end (packed), or one in a row, padded on the left. B utterances, S width of the padded input. A
place is an index into the flat input: of all tokens when packed, of B x S when padded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Places of every part of the input; all tensors int64 on the CPU."""

    lengths: Tensor  # [B], of each utterance's input
    size: int  # places in all
    prefix: Tensor  # [B x prefix length]
    speech: Tensor  # [sum of speech lengths]
    suffix: Tensor  # [B x suffix length]
    answer: Tensor  # [sum of answer lengths], the answer tokens that are fed in
    predicting: Tensor
    """[sum of answer lengths + B]: where the answer's tokens and its end are predicted, one place before each."""

    @property
    def width(self) -> int:
        """S, the length of the longest utterance."""
        return int(self.lengths.max())

    @property
    def mask(self) -> Tensor:
        """[B, S] of the padded input, 1 for input."""
        return (torch.arange(self.width)[None] >= self.width - self.lengths[:, None]).to(torch.int64)

    @property
    def positions(self) -> Tensor:
        """[size] of the packed input: each token's position in its own utterance."""
        return _runs(torch.zeros_like(self.lengths), self.lengths)


def lay_out(prefix: int, speech: Tensor, suffix: int, answer: Tensor, padded: bool) -> Layout:
    """The layout for B utterances with `speech` [B] embeddings and `answer` [B] fed-in answer tokens each."""
    lengths = prefix + speech + suffix + answer
    ends = torch.arange(1, len(lengths) + 1) * lengths.max() if padded else lengths.cumsum(0)
    after_suffix = ends - answer
    after_speech = after_suffix - suffix
    after_prefix = after_speech - speech
    return Layout(
        lengths=lengths,
        size=int(ends[-1]),
        prefix=_runs(after_prefix - prefix, torch.full_like(ends, prefix)),
        speech=_runs(after_prefix, speech),
        suffix=_runs(after_speech, torch.full_like(ends, suffix)),
        answer=_runs(after_suffix, answer),
        predicting=_runs(after_suffix - 1, answer + 1),
    )


def _runs(starts: Tensor, lengths: Tensor) -> Tensor:
    """starts [B], lengths [B] -> the integers of every run [start, start + length), end to end."""
    offsets = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + offsets
