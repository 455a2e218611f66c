"""The end of every command that makes a dataset directory: notes of what stayed out, totals, stale files, index."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.build.room import disk_full_explained
from data_prep.build.write import ShardResult
from data_prep.durable import sync_folder
from data_prep.figures import counted
from data_prep.refusals import DROPPED, QUARANTINE, Note, by_reason, reasons_of, write_notes
from data_prep.shards.index import SHARD_NAME, write_index
from model.errors import UserError


@dataclass(frozen=True)
class Totals:
    """Counts over a dataset directory."""

    utterances: int
    seconds: float
    bytes: int
    """Of the tars."""
    shards: int
    frames: int = 0
    """Of features."""
    bad: dict[str, int] = field(default_factory=dict)
    """Number by reason, of those in quarantine.jsonl."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number by reason, of those in dropped.jsonl."""
    unused: dict[str, int] = field(default_factory=dict)
    """Of tars indexed in place: members that belong to no utterance, by their last extension."""
    encoder_files: str = ""
    """Of features: model.loading.files_digest of the encoder; equal files need not be loaded to be known."""
    kept_shards: int = 0
    """Of `shards`, those finished by an earlier, interrupted run."""
    already_built: bool = False
    """Whether an earlier run had finished the directory."""


@dataclass(frozen=True)
class WorkDir:
    """A dataset directory that this process is making."""

    out: Path
    fingerprint: dict[str, Any]
    """What the content depends on."""
    options: dict[str, Any]
    """Those that change what is written."""
    finished: Totals | None = None
    """If just this was finished before."""


def finish(
    workdir: WorkDir,
    kind: str,
    results: Sequence[ShardResult],
    recorded: Sequence[str] = (),
    dropped: Sequence[Note] = (),
    **totals: Any,
) -> Totals:
    """Writes quarantine.jsonl and dropped.jsonl, removes stale files and, last, writes index.json.

    `recorded` are the counts ("bad", "dropped") that its totals hold beside `totals`. UserError where no utterance is
    left, and for a full disk.
    """
    notes = {"bad": [note for result in results for note in result.bad]}
    notes["dropped"] = [*dropped, *(note for result in results for note in result.dropped)]
    shards = [result.info for result in results if result.info.utterances]
    with disk_full_explained(workdir.out):
        write_notes(workdir.out / QUARANTINE, notes["bad"])
        write_notes(workdir.out / DROPPED, notes["dropped"])
        if not shards:
            all_notes = notes["bad"] + notes["dropped"]
            what = f"none of {counted(len(all_notes), 'utterance')} can be used ({reasons_of(all_notes)})"
            raise UserError(f"{what}; see {QUARANTINE}, {DROPPED} in {workdir.out}")
        counts: dict[str, Any] = {
            "utterances": sum(shard.utterances for shard in shards),
            "seconds": round(sum(shard.seconds for shard in shards), 4),
            "bytes": sum(shard.bytes for shard in shards),
            "shards": len(shards),
        }
        counts |= {name: by_reason(notes[name]) for name in recorded} | totals
        remove_stale(workdir.out, {shard.name for shard in shards}, ".meta" if shards[0].source else ".tar")
        write_index(workdir.out, kind, shards, workdir.fingerprint, workdir.options, counts)
    return Totals(**counts, kept_shards=sum(result.kept for result in results))


def remove_stale(out: Path, keep: set[str], data: str = ".tar") -> None:
    """Removes the files of all shards but `keep`, and of those what is neither columns nor of the ending `data`."""
    for path in sorted(out.glob("shard-*")):
        stem, dot, ending = path.name.partition(".")
        if SHARD_NAME.fullmatch(f"{stem}.tar") and dot + ending in (".tar", ".meta", ".idx.json"):
            if f"{stem}.tar" not in keep or dot + ending not in (data, ".idx.json"):
                path.unlink()
    sync_folder(out)
