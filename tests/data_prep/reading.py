"""Reading shard directories back, for tests."""

import os

from torch import Tensor

from data_prep.inspect.audit.audit import audit
from data_prep.inspect.check import CheckOptions
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import shard_path
from data_prep.shards.reader import wave_of
from data_prep.shards.tar import read_sample
from data_prep.utterance import Utterance


def check(root: str | os.PathLike[str], workers: int = 1) -> list[str]:
    """The problems of a directory, one line each."""
    return list(audit(root, CheckOptions(workers)).problems)


def read_utterance(index: ShardIndex, i: int) -> Utterance:
    """Utterance `i`; its audio is the stretch of the tar that holds it."""
    meta = read_sample(index, i).meta
    fields = {name: meta[name] for name in ("text", "language", "speaker", "task", "meta")}
    audio, part = str(shard_path(index, int(index.shard[i]))), f"bytes:{index.offset[i]}:{index.length[i]}"
    return Utterance(key=index.key[i], audio=audio, part=part, duration=meta["seconds"], **fields)


def read_wave(index: ShardIndex, i: int) -> Tensor:
    """Float32 [N], 16 kHz, of utterance `i` of an audio index."""
    return wave_of(index, i, read_sample(index, i))
