"""Finished shards written anew: other sizes, another order, fewer utterances; audio and features alike.

The same directories and options give the same bytes, on any number of workers. With `random` and the seed and size of a
build, the tars are those that the build would have written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.build.assign import divide
from data_prep.build.finish import Totals
from data_prep.build.options import Layout
from data_prep.build.sizes import Sizes
from data_prep.figures import in_units
from data_prep.rework.copying import CopyTask, copy_all, record_bytes
from data_prep.rework.joined import audio_crcs, concatenate, extension_of, open_all, part_of, place_of, require_own_keys
from data_prep.rework.subset import Subset, choose, fields_of
from data_prep.shards.cache import cache_folder
from data_prep.shards.index import BLOCK, ShardIndex, shard_name
from data_prep.shards.tar import RECORD
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE


@dataclass(frozen=True)
class ReshardOptions(Layout):
    """How the new shards are made. With `shard_bytes` a tar has at most so many, but for one utterance alone, and for
    `stratified` shards, which have about so many."""

    subset: Subset = field(default_factory=Subset)


def reshard(roots: Sequence[Path | str], out: Path, options: ReshardOptions) -> Totals:
    """Writes the utterances of `roots` that `options.subset` keeps into new shards in `out`, or goes on with it.

    UserError: directories that do not fit together, a key in two of them, nothing left, `out` taken, a full disk, a
    shard that is not what its index says.
    """
    indexes = open_all(roots, out)
    require_own_keys(indexes, "merge them with --prefix-keys first")
    _require_cache(indexes, options.shuffle)
    index, extension = concatenate(indexes), extension_of(indexes)
    ids, dropped = choose(index, options.subset)
    crcs = audio_crcs(indexes) if index.kind == "features" else [None] * len(index)
    tasks = [
        CopyTask(out / shard_name(number), part_of(index, part), extension, crcs=[crcs[i] for i in part])
        for number, part in enumerate(plan(index, ids, options))
    ]
    how = {**options.size_option(), "shuffle": options.shuffle, "seed": options.seed}
    return copy_all(out, index, tasks, how, dropped, options.workers, options.overwrite)


def plan(index: ShardIndex, ids: np.ndarray, options: ReshardOptions) -> list[np.ndarray]:
    """The utterances of each new shard, in their order; int64."""
    speakers: list[tuple[str, str]] = []
    if options.shuffle == "stratified":
        columns = fields_of(index, ("language", "speaker"))
        speakers = [(columns["language"][i], columns["speaker"][i]) for i in ids]
    room = options.shard_bytes and max(1, options.shard_bytes // RECORD * RECORD - 2 * BLOCK)  # the tar's end has two
    sizes = Sizes((index.samples[ids] / SAMPLE_RATE).tolist(), record_bytes(index)[ids].tolist())
    shards = divide([index.key[i] for i in ids], sizes, speakers, replace(options, shard_bytes=room))
    return [ids[shard] for shard in shards]


def _require_cache(indexes: Sequence[ShardIndex], shuffle: str) -> None:
    """UserError if the cache cannot hold all remote shards at once: out of order, their utterances lie scattered."""
    remote = [index for index in indexes if index.address]
    if remote and shuffle != "none":
        size, limit = sum(shard.bytes for index in remote for shard in index.shards), cache_folder().limit
        if size > limit:
            raise UserError(
                f"{place_of(remote[0])} has shards of {in_units(size)}, the cache may hold {in_units(limit)}; raise "
                "SLAM_ASR_CACHE_GB, copy the directory to this machine, or give --shuffle none"
            )
