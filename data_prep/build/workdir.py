"""The directory a dataset is made in: one writer at a time, resumed or refused, no other files overwritten."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.build.finish import Totals, WorkDir, remove_stale
from data_prep.build.room import disk_full_explained
from data_prep.durable import canonical_json, sync_folder, write_durably
from data_prep.locks import locked_folder
from data_prep.refusals import DROPPED, QUARANTINE
from data_prep.shards.index import FORMAT, INDEX_NAME, SHARD_NAME, columns_path
from data_prep.shards.opening import UNFINISHED_NAME, read_document, read_index
from data_prep.utterance import Utterance
from model.errors import UserError

FROM_OTHERS = {  # fields of a fingerprint or of the options that are hashes, in words
    "input": "what was made from another input",
    "merged": "what was made from other directories",
    "audio": "features of other audio",
}


@contextmanager
def claim(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool = False
) -> Iterator[WorkDir]:
    """Locks `out` (made if need be) for this process.

    UserError if another process holds it, or if it holds something made from other input or with other options.
    """
    with locked_folder(out, lambda: _busy(out)):
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


def require_not_source(corpus: Iterable[Utterance], *folders: Path) -> None:
    """UserError if one of the local archives that the recordings lie in is a shard in one of the folders."""
    archives = {u.audio for u in corpus if u.part.startswith("bytes:") and not is_remote(u.audio)}
    for path in map(Path, sorted(archives)):
        for place in (path.resolve(), path.parent.resolve() / path.name):
            for out in folders:
                if SHARD_NAME.fullmatch(place.name) and place.parent == out.resolve():
                    raise UserError(f"{out} holds {path.name}, which the corpus is read from; give another directory")


def remove_dataset(out: Path) -> None:
    """Removes the dataset's own files and, if no others are in it, the directory. UserError while it is being built."""
    with locked_folder(out, lambda: _busy(out)):
        for name in (INDEX_NAME, UNFINISHED_NAME, QUARANTINE, DROPPED):
            (out / name).unlink(missing_ok=True)
        remove_stale(out, set())
        remove_temporaries(out)
        if not any(out.iterdir()):
            out.rmdir()


def remove_temporaries(out: Path) -> None:
    """Removes what killed writers left; only where nobody writes any more."""
    for leftover in (*out.glob(".shard-*.tmp"), *out.glob(".*.jsonl.*.tmp"), *out.glob(".*.json.*.tmp")):
        leftover.unlink(missing_ok=True)


def require_resumable(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool | None
) -> Totals | None:
    """The totals of just this dataset if it is finished; None for a part of it or nothing; UserError for another.

    `overwrite` is None where the caller has no such option.
    """
    wanted = {"fingerprint": fingerprint, "options": options}
    advice = "give another directory" + ("" if overwrite is None else ", or --overwrite")
    for name in (INDEX_NAME, UNFINISHED_NAME):
        document = _document(out / name, bool(overwrite))
        if document is not None:
            same = all(document.get(field) == value for field, value in wanted.items())
            if not same and not overwrite:
                raise UserError(f"{out} holds {_difference(document, wanted)}; {advice}")
            if not same or name != INDEX_NAME:
                return None
            with suppress(UserError):  # of a file that was lost or cut since: it is made again
                read_index(out)
                return Totals(**document["totals"], already_built=True)
            return None
    tars = sorted(path for path in out.iterdir() if SHARD_NAME.fullmatch(path.name))
    if (out / UNFINISHED_NAME).exists():  # one that cannot be read, to be overwritten
        return None
    if not all(columns_path(path).exists() for path in tars):
        raise UserError(f"{out} holds shards without an index, not made here; give another directory")
    if tars and not overwrite:
        raise UserError(f"{out} holds shards whose {INDEX_NAME} is gone; {advice}")
    return None


def _busy(out: Path) -> UserError:
    return UserError(f"another process is building {out}; wait for it, or give another directory")


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
        if name == "part":
            whole = "the whole corpus"
            return f"another part ({before.get(name, whole)}, now {now.get(name, whole)})"
        if name:
            return f"what was made with another {name} ({_short(before.get(name))}, now {_short(now.get(name))})"
    return "something else"


def _kind(document: dict[str, Any]) -> str:
    if "input" not in (document.get("fingerprint") or {}):
        return "features"
    return "an index of tars" if "prefix_shard" in (document.get("options") or {}) else "audio shards"


def _short(value: Any) -> str:
    text = "default" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
