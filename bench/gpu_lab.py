"""What a check of the first minutes on a GPU is, and what all of them work with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from bench.gpu_parts import make_pair, timed
from bench.lengths import librispeech_like
from bench.toys import TOYS, make_speech
from model.batch import Batch, pack
from model.encoders import Encoder
from model.slam_asr import SlamAsr


class CheckFailedError(Exception):
    """What was computed is not what should be."""


@dataclass(frozen=True)
class Lab:
    """What the checks of one process share."""

    device: torch.device
    toy: bool
    say: Callable[[str], None]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def utterances(self) -> int:
        """Of a micro-batch: with TinyLlama some 8,500 tokens."""
        return 2 if self.toy else 46

    @cached_property
    def model(self) -> SlamAsr:
        """HuBERT-XL with TinyLlama, random weights in bfloat16."""
        return make_pair(TOYS["tiny" if self.toy else "TinyLlama"], self.device, torch.bfloat16)

    @property
    def encoder(self) -> Encoder:
        assert self.model.encoder is not None
        return self.model.encoder

    def batch(self, seed: int, utterances: int | None = None) -> Batch:
        """A micro-batch of noise as long as LibriSpeech's utterances, on the CPU; other lengths for each seed."""
        count = utterances or self.utterances
        spoken = make_speech(librispeech_like(count, seed), self.model.prompt, seed)
        keys = [str(i) for i in range(count)]
        texts, targets = [one.text for one in spoken], [one.targets for one in spoken]
        return pack(keys, texts, targets, waves=[one.wave for one in spoken])

    def milliseconds(self, work: Callable[[], object], times: int = 5) -> float:
        """Of one `work`, after one that is not counted."""
        work()
        times = 1 if self.toy else times
        return 1e3 * timed(self.device, lambda: [work() for _ in range(times)]) / times


@dataclass(frozen=True)
class Check:
    """One of the first minutes on a GPU."""

    name: str
    work: Callable[[Lab], None]
    seconds: float = 90.0
    """It may take."""
