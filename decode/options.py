"""Options of decoding, and its result for one utterance. Imports no torch."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from model.errors import UserError, counted, require_at_least


@dataclass(frozen=True)
class DecodeOptions:
    """How to search, and how much at a time."""

    beams: int = 1  # hypotheses kept; 1 is greedy search
    max_new_tokens: int | None = None  # LLM tokens an answer; None bounds each by its utterance's length
    batch_tokens: int = 2000
    """Speech embeddings of a batch times beams, padding included: limits memory, does not change results. At the usual
    10 per second this is 200 s of speech, whose keys and values take 0.2 GB in a 1B LLM, 4 GB in a 7B one."""
    synced_gpus: bool = False
    """True under ZeRO-3 on several ranks: decoding is then a collective, which all ranks call equally often."""
    nbest: int = 1  # hypotheses returned per utterance, the best included; at most `beams`
    length_penalty: float = 0.0
    """With beams: a hypothesis's score is its log-probability / tokens ** this. 0 finds the most likely answer;
    transformers' default, 1, the highest mean per token, which favours long answers."""
    repetition_penalty: float = 1.0  # above 1: tokens already in the answer become less likely
    strict: bool = False  # True: the first answer is kept, even if it is not a transcript

    def __post_init__(self) -> None:
        """UserError for values out of range, or that contradict each other."""
        bound = () if self.max_new_tokens is None else ("max_new_tokens",)
        for name in ("beams", "nbest", "batch_tokens", *bound):
            if not isinstance(value := getattr(self, name), int):
                raise UserError(f"{name} is {value!r}, it must be a whole number")
            require_at_least(name, value, 1)
        if self.nbest > self.beams:
            more = f"a search with {counted(self.beams, 'beam')} has only {self.beams}"
            raise UserError(f"nbest {self.nbest}: {more}; give beams {self.nbest} or more")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty {self.repetition_penalty:g}: give a number above 0; 1 turns it off")
        if not 0 <= self.length_penalty < math.inf:
            advice = "give 0 or more; 0 is the sum of log-probabilities, 1 the mean per token"
            raise UserError(f"length_penalty {self.length_penalty:g}: {advice}")
        if self.length_penalty and self.beams == 1:
            raise UserError(f"length_penalty {self.length_penalty:g} applies to beam search; give beams 2 or more")


class Alternative(NamedTuple):
    """One hypothesis of an n-best list."""

    text: str
    score: float  # log-probability in nats / tokens ** length_penalty, EOS included


class Answer(NamedTuple):
    """The LLM's answer for one utterance."""

    text: str
    note: str = ""
    """Empty if the answer ended with EOS; "cut" if it reached the limit on new tokens; "nan" if the LLM computed NaN:
    then the text is empty. "loop", "echo", "refusal": the first answer was one; this text is the better of that and a
    second, safer search."""
    tokens: tuple[int, ...] = ()  # without EOS
    logprobs: tuple[float, ...] = ()  # nats, of each token and of EOS, if the answer ended with it
    alternatives: tuple[Alternative, ...] = ()  # the n-best list, best first; empty unless nbest > 1

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities, 0 to 1."""
        return math.exp(sum(self.logprobs) / len(self.logprobs)) if self.logprobs else 0.0
