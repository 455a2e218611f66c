"""The frozen encoder run once: audio shards in, shards of its frames out, same keys, same order.

The index carries the encoder's fingerprint, so that training with another encoder, layer or precision is refused. Rank
r of R takes shards r, r + R ... of those with frames missing (coverage.py), then any that no rank has taken, and
encodes what is missing in each, in order, into a shard of the same number. No rank waits for another; the one that
finds nothing missing writes index.json. A killed run goes on, on any number of ranks.

On a CPU the bytes are the same on any number of ranks and threads."""

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from data_prep.audio.decode import SAMPLE_RATE
from data_prep.build.workdir import Totals, disk_full_explained
from data_prep.durable import canonical_json, write_durably
from data_prep.features.encoding import GROUP_SECONDS, device_of, encode_in_order
from data_prep.features.writer import FeatureWriter
from data_prep.figures import in_units
from data_prep.paths import free_bytes
from data_prep.progress import Progress, Silent
from data_prep.shards.coverage import Coverage, cache_fingerprint
from data_prep.shards.frames import FEATURE_DTYPES, bytes_per_frame
from data_prep.shards.index import BLOCK, INDEX_NAME, ShardIndex, padded, shard_name
from data_prep.shards.opening import read_document
from data_prep.shards.tar import MAX_MEDIA_BYTES, RECORD
from model.encoders import Encoder
from model.errors import UserError, counted, require_known

SAMPLE_SECONDS = {"cpu": 20.0, "cuda": 2 * GROUP_SECONDS["cuda"]}  # of audio that is encoded to measure the speed
SPEED_NAME = "speed.json"  # beside the index: training asks whether reading frames is faster than encoding was


@dataclass(frozen=True)
class FeatureRun:
    """The work of one rank."""

    totals: Totals | None  # of the cache, if this rank finished it, or an earlier run had
    missing: int = 0  # utterances that other ranks are encoding, or did not finish
    utterances: int = 0  # encoded by this rank
    kept_shards: int = 0  # found finished at the start


@dataclass(frozen=True)
class Speed:
    """Measured by one rank over all that it encoded in one run, reading and writing included."""

    audio_seconds_per_second: float
    device: str
    ranks: int


@dataclass(frozen=True)
class Estimate:
    """Of what is missing in the directory."""

    utterances: int
    audio_seconds: float
    bytes: int  # of the tars
    free_bytes: int  # on the disk
    speed: float  # seconds of audio that this rank encodes in a second; 0 if there is nothing to do
    hours: float  # until all ranks are done, if they are as fast as this one


@dataclass(frozen=True)
class FeatureRank:
    """This process among those that build one cache together."""

    rank: int = 0
    size: int = 1
    threads: int | None = None  # of this rank; None chooses


def build_features(
    index: ShardIndex,
    encoder: Encoder,
    out: Path,
    dtype: str = "float16",
    progress: Progress | None = None,
    overwrite: bool = False,
    rank: FeatureRank | None = None,
) -> FeatureRun:
    """Encodes the utterances of an audio index that are missing in `out`; frames are kept as `dtype`, a key of
    FEATURE_DTYPES.

    UserError: the index holds features already, another sample rate, an utterance under one frame, frames too large for
    the dtype, `out` taken, a full disk."""
    require_fit(index, encoder, out, dtype)
    rank = rank or FeatureRank()
    with FeatureWriter(out, index, encoder.fingerprint(), dtype, rank.rank, rank.size, overwrite) as writer:
        if writer.folder.finished:
            return FeatureRun(writer.folder.finished)
        kept_shards, utterances, before = len(writer.coverage.shards), 0, -1
        shown = progress or (Silent if rank.rank else Progress)(len(index), label="features")
        with shown as progress, disk_full_explained(out):
            progress.keep(int(writer.coverage.covered.sum()))
            while before < utterances:  # until nothing is missing but what other ranks are encoding
                before = utterances
                utterances += _encode_missing(writer, encoder, rank, progress)
            totals = writer.finish(encoder.source)
        missing = 0 if totals or (out / INDEX_NAME).exists() else int((~writer.coverage.covered).sum())
    return FeatureRun(totals, missing, utterances, kept_shards)


def require_fit(index: ShardIndex, encoder: Encoder, out: Path, dtype: str) -> None:
    """UserError unless this encoder can make a cache of this index in `out`."""
    assert sys.byteorder == "little", "frames are kept little-endian"
    if index.kind != "audio":
        raise UserError(f"{index.root} holds {index.kind}, an encoder needs audio; give what `prep build` made")
    require_known("feature dtype", dtype, FEATURE_DTYPES)
    if encoder.sample_rate != SAMPLE_RATE:
        raise UserError(f"the encoder expects {encoder.sample_rate} Hz, shards hold {SAMPLE_RATE} Hz; use another")
    if out.resolve() == index.root.resolve():
        raise UserError(f"{out} holds the audio itself; give another directory for its features")
    frames = encoder.out_len(index.samples)
    short = np.flatnonzero(frames < 1)
    if len(short):
        raise UserError(
            f"{counted(len(short), 'utterance is', 'utterances are')} too short for one frame, {index.key[short[0]]} "
            f"of {int(index.samples[short[0]]):,} samples first; build again with --min-seconds 0.1"
        )
    longest = int(np.argmax(frames)) if len(frames) else 0
    if len(frames) and int(frames[longest]) * bytes_per_frame(encoder.dim, dtype) > MAX_MEDIA_BYTES:
        raise UserError(
            f"the frames of utterance {index.key[longest]} would take more than {MAX_MEDIA_BYTES >> 20:,} MiB as "
            f"{dtype}; use another --feature-dtype, or build with a lower --max-seconds"
        )


def estimate(index: ShardIndex, encoder: Encoder, out: Path, dtype: str, ranks: int, threads: int | None) -> Estimate:
    """Encodes a few utterances to measure the speed, and throws them away. UserError for one that cannot be read, and
    where the disk has less free than the cache takes."""
    fingerprint = cache_fingerprint(encoder.fingerprint(), dtype)
    missing = np.flatnonzero(~Coverage(out, index, fingerprint).covered)
    seconds, free = float(index.samples[missing].sum()) / SAMPLE_RATE, free_bytes(out)
    needed = bytes_of(index, encoder, dtype, missing)
    speed = 0.0
    if len(missing):
        wanted = SAMPLE_SECONDS.get(device_of(encoder).type, 20.0) * SAMPLE_RATE / float(index.samples[missing].mean())
        number = min(len(missing), max(1, round(wanted)))
        sample = [int(missing[i * len(missing) // number]) for i in range(number)]  # evenly spaced
        list(encode_in_order(index, encoder, dtype, sample[:1], threads))  # the first is slower, and not counted
        began = time.monotonic()
        list(encode_in_order(index, encoder, dtype, sample, threads))
        speed = float(index.samples[sample].sum()) / SAMPLE_RATE / max(time.monotonic() - began, 1e-9)
    if needed > free:
        smaller = "" if dtype == "int8" else ", or keep them as int8 (--feature-dtype int8)"
        raise UserError(f"the features take {in_units(needed)}, {out} has {in_units(free)} free; make room{smaller}")
    hours = seconds / speed / ranks / 3600 if speed else 0.0
    return Estimate(len(missing), seconds, needed, free, speed, hours)


def bytes_of(index: ShardIndex, encoder: Encoder, dtype: str, ids: np.ndarray) -> int:
    """Bytes of the tars with the frames of `ids`, each audio shard's in a tar: exact."""
    frames = np.asarray(encoder.out_len(index.samples[ids]), np.int64)
    added = len(f',"dim":{encoder.dim},"frames":') + np.char.str_len(frames.astype(str))
    media, meta = frames * bytes_per_frame(encoder.dim, dtype), index.meta_length[ids] + added
    each = 2 * BLOCK + padded(media) + padded(meta)
    tars = np.bincount(index.shard[ids], each).astype(np.int64)
    return int(padded(tars[tars > 0] + 2 * BLOCK, RECORD).sum())


def _encode_missing(writer: FeatureWriter, encoder: Encoder, rank: FeatureRank, progress: Progress) -> int:
    """Encodes what no other rank is encoding, and returns the number of utterances."""
    index, coverage = writer.audio, writer.coverage
    began, ids = time.monotonic(), list[int]()
    encoded = encode_in_order(index, encoder, writer.dtype, _missing(writer), rank.threads)

    def publish(number: int) -> None:
        writer.flush()
        writer.folder.release(number)
        coverage.refresh()
        assert coverage.covered[ids].all(), "a shard that was just written does not count"
        progress.advance(max(0, int(coverage.covered.sum()) - progress.done))  # those of other ranks

    with closing(encoded):
        for utterance in encoded:
            number = int(index.shard[utterance.id])
            if ids and index.shard[ids[-1]] != number:
                publish(int(index.shard[ids[-1]]))
            path = writer.out / shard_name(number)
            free = None if path.name in coverage.shards else path  # else a loose shard
            writer.write(utterance.id, utterance.media, utterance.meta, utterance.frames, encoder.dim, free)
            ids.append(utterance.id)
            progress.advance()
    if ids:
        publish(int(index.shard[ids[-1]]))
        speed = float(index.samples[ids].sum()) / SAMPLE_RATE / max(time.monotonic() - began, 1e-9)
        device = device_of(encoder)
        gpu = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if gpu else f"{platform.machine()} processor"
        measured = canonical_json(asdict(Speed(round(speed, 2), name, rank.size)), indent=1) + b"\n"
        write_durably(writer.out / SPEED_NAME, measured)  # not in the index, as it differs from run to run
    return len(ids)


def _missing(writer: FeatureWriter) -> Iterator[int]:
    """Utterances to encode, of one shard after the other, each taken when its first utterance is asked for."""
    for number, ids in _shards_to_do(writer):
        if writer.folder.take(number):
            writer.coverage.refresh()
            missing = writer.coverage.missing(ids)
            yield from missing
            if not missing:
                writer.folder.release(number)


def _shards_to_do(writer: FeatureWriter) -> list[tuple[int, range]]:
    """Audio shards with something missing, and their utterances: this rank's own, then the others' from the end."""
    writer.coverage.refresh()
    ends = np.cumsum([info.utterances for info in writer.audio.shards]).tolist()
    shards = list(enumerate(range(start, end) for start, end in zip([0, *ends], ends, strict=False)))
    shards = [(number, ids) for number, ids in shards if writer.coverage.missing(ids)]
    rank, size = writer.rank, writer.size
    if writer.folder.locks is None:  # all ranks must divide the shards alike, whenever they look
        return [shard for shard in shards if shard[0] % size == rank]
    return shards[rank::size] + [shard for i, shard in enumerate(shards) if i % size != rank][::-1]


def read_speed(out: Path) -> Speed | None:
    """None where none was measured, or the file is of another form."""
    try:
        return Speed(**read_document(out / SPEED_NAME))
    except (UserError, TypeError):
        return None
