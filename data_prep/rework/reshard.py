"""Finished shards written anew: other sizes, another order, fewer utterances; audio and features alike.

1. the directories are seen as one (joined.py), and utterances stay out by the subset asked for (subset.py);
2. each utterance gets its shard and place, by keys, lengths and seed alone (`plan`);
3. the shards are written from the members of the old ones (copying.py).

The same directories and options give the same bytes, on any number of workers. With `random` and the seed and size of a
build, the tars are those that the build would have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.build.assign import ORDERS, Packing, Placed, chance
from data_prep.build.lengths import Size
from data_prep.figures import in_units
from data_prep.progress import Progress
from data_prep.rework.copying import CopyTotals, copy_all, copy_task, record_bytes
from data_prep.rework.joined import audio_crcs, concatenate, extension_of, open_all, part_of, place_of, require_own_keys
from data_prep.rework.subset import Subset, choose, fields_of
from data_prep.shards.columns import BLOCK
from data_prep.shards.index import ShardIndex, shard_name
from data_prep.shards.tar import RECORD
from data_prep.utterance import Utterance
from model.errors import UserError, require_at_least, require_known
from model.sample_rate import SAMPLE_RATE

MIXED = ("language", "speaker")  # that `stratified` spreads over the shards


@dataclass(frozen=True)
class ReshardOptions:
    """How the new shards are made."""

    shard_size: int = 1000
    """Utterances a shard."""
    shard_bytes: int = 0
    """In place of `shard_size`: a tar has at most so many, but for one utterance alone, and for `stratified` shards,
    which have about so many. 0 for by number."""
    shuffle: str = "random"
    """One of assign.ORDERS, as of a build."""
    seed: int = 0
    workers: int = 1
    """Processes. Changes nothing but the time."""
    overwrite: bool = False
    """Replace what was made from other input or options."""
    subset: Subset = field(default_factory=Subset)

    def __post_init__(self) -> None:
        for name, least in (("shard_size", 1), ("shard_bytes", 0), ("workers", 1)):
            require_at_least(name, getattr(self, name), least)
        require_known("shuffle", self.shuffle, ORDERS)


def reshard(
    roots: Sequence[Path | str], out: Path, options: ReshardOptions, progress: Progress | None = None
) -> CopyTotals:
    """Writes, or goes on writing, the utterances of `roots` that the options keep to the dataset directory `out`.

    UserError: directories that do not fit together, a key twice, nothing kept, `out` taken, a full disk, an utterance
    that is not what its index says.
    """
    indexes = open_all(roots, out)
    _require_cache(indexes, options.shuffle)
    require_own_keys(indexes, "`slam-asr prep merge --prefix-keys` gives each directory its own")
    index, extension = concatenate(indexes), extension_of(indexes)
    ids, notes = choose(index, options.subset)
    crcs = audio_crcs(indexes) if index.kind == "features" else []
    tasks = []
    for number, part in enumerate(plan(index, ids, options)):
        of_audio = [crcs[i] for i in part] if crcs else []
        tasks.append(copy_task(out / shard_name(number), part_of(index, part), extension, crcs=of_audio))
    size = {"shard_bytes": options.shard_bytes} if options.shard_bytes else {"shard_size": options.shard_size}
    how = {**size, "shuffle": options.shuffle, "seed": options.seed}
    return copy_all(out, index, tasks, how, notes, options.workers, options.overwrite, progress)


def plan(index: ShardIndex, ids: np.ndarray, options: ReshardOptions) -> list[np.ndarray]:
    """The utterances of each new shard, in their order; int64."""
    said = fields_of(index, MIXED) if options.shuffle == "stratified" else {}
    sizes = record_bytes(index).tolist()
    placed, number = [], {}
    for i in ids.tolist():
        utterance = Utterance(index.key[i], "", "", **{name: said[name][i] for name in said})
        size = Size(int(index.samples[i]) / SAMPLE_RATE, sizes[i])
        placed.append(Placed(utterance, size, chance(options.seed, utterance.key)))
        number[utterance.key] = i
    room = options.shard_bytes and max(1, options.shard_bytes // RECORD * RECORD - 2 * BLOCK)  # the tar's end has two
    parts = ORDERS[options.shuffle](placed, Packing(options.shard_size, room))
    return [np.array([number[one.utterance.key] for one in part], np.int64) for part in parts]


def _require_cache(indexes: Sequence[ShardIndex], shuffle: str) -> None:
    """Out of order, utterances of remote shards are read here and there: those shards must all be here at once."""
    remote = [index for index in indexes if index.address]
    if remote and shuffle != "none":
        from data_prep.shards.cache_folder import cache_folder

        size, limit = sum(shard.bytes for index in remote for shard in index.shards), cache_folder().limit
        if size > limit:
            raise UserError(
                f"{place_of(remote[0])} has shards of {in_units(size)}, the cache may hold {in_units(limit)}; raise "
                "SLAM_ASR_CACHE_GB, copy the directory to this machine, or give --shuffle none"
            )
