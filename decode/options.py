"""How to decode, and what comes of it. Imports no torch."""

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
    """Speech embeddings of a batch times beams, padding counted: bounds memory, does not change results. At the usual
    10 a second 200 s of speech, whose keys and values take 0.2 GB in a 1B LLM, 4 GB in a 7B one."""
    synced_gpus: bool = False
    """True under ZeRO-3 on several ranks: decoding is then a collective, which all ranks call equally often."""
    nbest: int = 1  # alternatives of an answer, the best among them; at most `beams`
    length_penalty: float = 1.0  # beams: a hypothesis's score is its log-probability / tokens ** this
    repetition_penalty: float = 1.0  # above 1: tokens that the answer already has become less likely
    strict: bool = False  # True: the first answer stands, whatever it looks like

    def __post_init__(self) -> None:
        """UserError for values out of range, or that do not go together."""
        for name in ("beams", "nbest", "batch_tokens", "max_new_tokens"):
            value = getattr(self, name)
            if value is None and name == "max_new_tokens":
                continue
            if not isinstance(value, int):
                raise UserError(f"{name} is {value!r}, it must be a whole number")
            require_at_least(name, value, 1)
        if self.nbest > self.beams:
            more = f"a search with {counted(self.beams, 'beam')} has no {self.nbest} alternatives"
            raise UserError(f"nbest {self.nbest}: {more}; give beams {self.nbest} or more")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty {self.repetition_penalty:g}: give a number above 0; 1 is none")
        if not 0 < self.length_penalty < math.inf:
            raise UserError(f"length_penalty {self.length_penalty:g}: give a number above 0; 1 scores by the mean")
        if self.length_penalty != 1.0 and self.beams == 1:
            raise UserError(f"length_penalty {self.length_penalty:g} is of a beam search; give beams 2 or more")


class Alternative(NamedTuple):
    """One hypothesis of an n-best list."""

    text: str
    score: float  # log-probability in nats / tokens ** length_penalty, EOS included


class Answer(NamedTuple):
    """What the LLM wrote to one utterance."""

    text: str
    note: str = ""
    """Empty if the model ended it. "cut": the bound on new tokens did. "loop", "echo", "refusal": the first answer was
    one, and this text, unless `strict`, is of a second and safer search."""
    tokens: tuple[int, ...] = ()  # of the LLM, without EOS
    logprobs: tuple[float, ...] = ()  # nats, of each token and then of EOS, if the model ended the answer
    alternatives: tuple[Alternative, ...] = ()  # the n best, best first; empty unless nbest > 1

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities, 0 to 1."""
        return math.exp(sum(self.logprobs) / len(self.logprobs)) if self.logprobs else 0.0
