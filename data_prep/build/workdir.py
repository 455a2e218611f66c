"""The directory that a dataset is made in: one writer at a time, resumed or refused; in the end its notes and index."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.durable import FULL, canonical_json, locked_folder, sync_folder, write_durably
from data_prep.figures import in_units
from data_prep.paths import free_bytes
from data_prep.refusals import DROPPED, QUARANTINE, Note, by_reason, reasons_of, write_notes
from data_prep.shards.index import FORMAT, INDEX_NAME, SHARD_NAME, ShardInfo, columns_path, write_index
from data_prep.shards.opening import UNFINISHED_NAME, read_document, read_index
from data_prep.utterance import Utterance
from model.errors import UserError, counted

FAR_TOO_MUCH = 2.0  # times the free space: no estimate here is so wrong
FROM_OTHERS = {  # fields of a fingerprint or of the options that are hashes, in words
    "input": "what was made from another input",
    "merged": "what was made from other directories",
    "audio": "features of other audio",
}


@dataclass(frozen=True)
class Totals:
    """Counts over a dataset directory."""

    utterances: int
    seconds: float
    bytes: int  # of the tars
    shards: int
    frames: int = 0  # of features
    bad: dict[str, int] = field(default_factory=dict)  # number by reason, of those in quarantine.jsonl
    dropped: dict[str, int] = field(default_factory=dict)  # number by reason, of those in dropped.jsonl
    unused: dict[str, int] = field(default_factory=dict)
    """Of tars indexed in place: members that belong to no utterance, by their last extension."""
    encoder_files: str = ""
    """Of features: model.loading.pretrained.files_digest of the encoder; equal files need not be loaded to be known."""
    kept_shards: int = 0  # of `shards`, those finished by an earlier, interrupted run
    already_built: bool = False  # whether an earlier run had finished the directory


@dataclass(frozen=True)
class WorkDir:
    """A dataset directory that this process is making."""

    out: Path
    fingerprint: dict[str, Any]  # what the content depends on
    options: dict[str, Any]  # those that change what is written
    finished: Totals | None = None  # where an earlier run finished this very dataset


@dataclass(frozen=True)
class ShardResult:
    """A finished shard."""

    info: ShardInfo
    bad: list[Note] = field(default_factory=list)  # utterances that cannot be used
    dropped: list[Note] = field(default_factory=list)  # utterances outside the limits that the options set
    unused: dict[str, int] = field(default_factory=dict)  # as in Totals
    kept: bool = False  # whether an earlier run had finished it


@contextmanager
def disk_full_explained(out: Path) -> Iterator[None]:
    """UserError in place of an OSError for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = in_units(free_bytes(out))
        raise UserError(
            f"no space left for {out}: {free} are free; finished shards stay valid: make room and run it again"
        ) from None


def require_room(out: Path, expected: int) -> None:
    """UserError where `expected` bytes cannot go into `out`; a warning where they probably cannot."""
    missing = expected - sum(path.stat().st_size for path in out.glob("shard-*.tar"))
    free = free_bytes(out)
    figures = f"{out}: about {in_units(missing)} are to be written, {in_units(free)} are free"
    if missing > FAR_TOO_MUCH * free:
        raise UserError(f"{figures}; make room, or give another directory")
    if missing > free:
        print(f"warning: {figures}; it will probably not be enough", file=sys.stderr)


def require_not_source(corpus: Iterable[Utterance], *folders: Path) -> None:
    """UserError if one of the local archives that the recordings lie in is a shard in one of the folders."""
    archives = {u.audio for u in corpus if u.part.startswith("bytes:") and not is_remote(u.audio)}
    for path in map(Path, sorted(archives)):
        for place in (path.resolve(), path.parent.resolve() / path.name):
            for out in folders:
                if SHARD_NAME.fullmatch(place.name) and place.parent == out.resolve():
                    raise UserError(f"{out} holds {path.name}, which the corpus is read from; give another directory")


def busy(out: Path) -> UserError:
    """For a directory that another process has locked."""
    return UserError(f"another process is building {out}; wait for it, or give another directory")


@contextmanager
def claim(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool = False
) -> Iterator[WorkDir]:
    """Locks `out` (made if need be) for this process. UserError if another process holds it, or if it holds something
    made from other input or with other options."""
    with locked_folder(out, lambda: busy(out)):
        finished = require_resumable(out, fingerprint, options, overwrite)
        if finished is None:
            with disk_full_explained(out):
                mark_unfinished(out, fingerprint, options)
                remove_temporaries(out)
        yield WorkDir(out, fingerprint, options, finished)
        (out / UNFINISHED_NAME).unlink(missing_ok=True)


def mark_unfinished(out: Path, fingerprint: dict[str, Any], options: dict[str, Any]) -> None:
    write_durably(out / UNFINISHED_NAME, canonical_json({"fingerprint": fingerprint, "options": options}))
    (out / INDEX_NAME).unlink(missing_ok=True)
    sync_folder(out)


def remove_temporaries(out: Path) -> None:
    """Removes what killed writers left; only where nobody writes any more."""
    for leftover in (*out.glob(".shard-*.tmp"), *out.glob(".*.jsonl.*.tmp"), *out.glob(".*.json.*.tmp")):
        leftover.unlink(missing_ok=True)


def remove_dataset(out: Path) -> None:
    """Removes the dataset's own files and, if no others are in it, the directory. UserError while it is being built."""
    with locked_folder(out, lambda: busy(out)):
        for name in (INDEX_NAME, UNFINISHED_NAME, QUARANTINE, DROPPED):
            (out / name).unlink(missing_ok=True)
        _remove_stale(out, set())
        remove_temporaries(out)
        if not any(out.iterdir()):
            out.rmdir()


def require_resumable(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool | None
) -> Totals | None:
    """The totals of just this dataset if it is finished; None for a part of it or nothing; UserError for another.
    `overwrite` is None where the caller has no such option."""
    wanted = {"fingerprint": fingerprint, "options": options}
    advice = "give another directory" + ("" if overwrite is None else ", or --overwrite")
    for name in (INDEX_NAME, UNFINISHED_NAME):
        document = _document(out / name, bool(overwrite))
        if document is None:
            continue
        same = all(document.get(field) == value for field, value in wanted.items())
        if not same and not overwrite:
            raise UserError(f"{out} holds {_difference(document, wanted)}; {advice}")
        if same and name == INDEX_NAME:
            with suppress(UserError):  # of a file that was lost or cut since: it is made again
                read_index(out)
                return Totals(**document["totals"], already_built=True)
        return None
    if (out / UNFINISHED_NAME).exists():  # one that cannot be read, to be overwritten
        return None
    tars = [path for path in out.iterdir() if SHARD_NAME.fullmatch(path.name)]
    if not all(columns_path(path).exists() for path in tars):
        raise UserError(f"{out} holds shards without an index, not made here; give another directory")
    if tars and not overwrite:
        raise UserError(f"{out} holds shards whose {INDEX_NAME} is gone; {advice}")
    return None


def _document(path: Path, overwrite: bool) -> dict[str, Any] | None:
    """The content of the file; None where there is none, or where one that cannot be read is to be overwritten."""
    if not path.exists():
        return None
    try:
        document = read_document(path)
    except UserError:
        if overwrite:
            return None
        raise
    if path.name == INDEX_NAME and document.get("format") != FORMAT:
        raise UserError(f"{path} was not made here; give another directory")
    return document


def _difference(document: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The kind of the dataset, or the first option or part of the fingerprint, that differs, in words."""
    if _kind(document) != _kind(wanted):
        return f"{_kind(document)}, not {_kind(wanted)}"
    for part in ("options", "fingerprint"):
        before, now = document.get(part) or {}, wanted[part]
        name = next((name for name in sorted({*before, *now}) if before.get(name) != now.get(name)), "")
        if name in FROM_OTHERS:
            return FROM_OTHERS[name]
        if name:
            default = "the whole corpus" if name == "part" else "default"
            values = [str(default if value is None else value) for value in (before.get(name), now.get(name))]
            if name == "part":
                return f"another part ({values[0]}, now {values[1]})"
            short = [value if len(value) <= 20 else f"{value[:12]}..." for value in values]
            return f"what was made with another {name} ({short[0]}, now {short[1]})"
    return "something else"


def _kind(document: dict[str, Any]) -> str:
    if "input" not in (document.get("fingerprint") or {}):
        return "features"
    return "an index of tars" if "prefix_shard" in (document.get("options") or {}) else "audio shards"


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
    left, and for a full disk."""
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
        _remove_stale(workdir.out, {shard.name for shard in shards}, ".meta" if shards[0].source else ".tar")
        write_index(workdir.out, kind, shards, workdir.fingerprint, workdir.options, counts)
    return Totals(**counts, kept_shards=sum(result.kept for result in results))


def _remove_stale(out: Path, keep: set[str], data: str = ".tar") -> None:
    """Removes the files of all shards but `keep`, and of those what is neither columns nor of the ending `data`."""
    for ending in (".tar", ".meta", ".idx.json"):
        for path in out.glob(f"shard-*{ending}"):
            tar = path.name.removesuffix(ending) + ".tar"
            if SHARD_NAME.fullmatch(tar) and (tar not in keep or ending not in (data, ".idx.json")):
                path.unlink()
    sync_folder(out)
