"""The directory a dataset is made in: one writer at a time, resumed or refused, nothing of others overwritten."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.durable import FULL, canonical_json, sync_folder, write_durably
from data_prep.refusals import DROPPED, QUARANTINE
from data_prep.shards.files import UNFINISHED_NAME, read_document
from data_prep.shards.index import FORMAT, INDEX_NAME, SHARD_NAME, columns_path
from data_prep.shards.opening import read_index
from model.errors import UserError

__all__ = [
    "UNFINISHED_NAME",
    "DiskFull",
    "claim",
    "disk_full_explained",
    "look_around",
    "remove_dataset",
    "remove_stale",
    "remove_temporaries",
    "require_not_source",
]

FROM_OTHERS = {  # what differs by a hash, which says nothing to a person
    "input": "what was made from another input",
    "merged": "what was made from other directories",
    "audio": "features of other audio",
}


@contextmanager
def claim(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool = False
) -> Iterator[dict[str, Any] | None]:
    """Holds `out` (made if need be) for this process; gives index.json's content if just this was finished before.

    UserError if another process holds it, or if it holds something made from other input or with other options.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give another directory") from None
    try:
        _lock(descriptor, out)
        wanted = {"fingerprint": fingerprint, "options": options}
        finished = look_around(out, wanted, overwrite)
        if finished is None:
            with disk_full_explained(out):
                _start(out, wanted)
        yield finished
        (out / UNFINISHED_NAME).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


class DiskFull(UserError):
    """There is no room left to write to."""


@contextmanager
def disk_full_explained(out: Path) -> Iterator[None]:
    """Turns "no space left" into a line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(f"no space left for {out}; what is finished stays valid: make room and run it again") from None


def require_not_source(archives: Iterable[str], out: Path) -> None:
    """UserError if one of the local archives that a corpus is read from is a shard in `out`."""
    for archive in sorted(set(archives)):
        path = Path(archive)
        for place in (path.resolve(), path.parent.resolve() / path.name):
            if SHARD_NAME.fullmatch(place.name) and place.parent == out.resolve():
                raise UserError(f"{out} holds {path.name}, which the corpus is read from; give another directory")


def remove_stale(out: Path, keep: set[str]) -> None:
    """Removes tars of ours that the coming index does not list, with their columns."""
    for path in sorted(out.glob("shard-*.tar")):
        if SHARD_NAME.fullmatch(path.name) and path.name not in keep:
            path.unlink()
            columns_path(path).unlink(missing_ok=True)
    sync_folder(out)


def remove_dataset(out: Path) -> None:
    """Removes the dataset directory, which nobody may be building; files that are not of it stay, and the directory."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        _lock(descriptor, out)
        for name in (INDEX_NAME, UNFINISHED_NAME, QUARANTINE, DROPPED):
            (out / name).unlink(missing_ok=True)
        remove_stale(out, set())
        remove_temporaries(out)
        if not any(out.iterdir()):
            out.rmdir()
    finally:
        os.close(descriptor)


def remove_temporaries(out: Path) -> None:
    """Removes what killed writers left; only where nobody writes any more."""
    for leftover in (*out.glob(".shard-*.tmp"), *out.glob(".*.jsonl.*.tmp"), *out.glob(".*.json.*.tmp")):
        leftover.unlink(missing_ok=True)


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is building {out}; wait for it, or give another directory") from None
    except OSError:
        pass  # a file system without locks


def look_around(out: Path, wanted: dict[str, Any], overwrite: bool | None) -> dict[str, Any] | None:
    """What is there already: this (its index), part of this or nothing (None), something else (UserError).

    `overwrite` is None where the person has no such option to give.
    """
    advice = "give another directory" + ("" if overwrite is None else ", or --overwrite")
    for name in (INDEX_NAME, UNFINISHED_NAME):
        found = _document(out / name, bool(overwrite))
        if found is not None:
            same = {field: found.get(field) for field in wanted} == wanted
            if same or overwrite:
                return found if same and name == INDEX_NAME and _is_whole(out) else None
            raise UserError(f"{out} holds {_difference(found, wanted)}; {advice}")
    if not (out / UNFINISHED_NAME).exists():
        tars = sorted(path for path in out.iterdir() if SHARD_NAME.fullmatch(path.name))
        if not all(columns_path(path).exists() for path in tars):
            raise UserError(f"{out} holds shards without an index, not made here; give another directory")
        if tars and not overwrite:
            raise UserError(f"{out} holds shards whose {INDEX_NAME} is gone; {advice}")
    return None


def _document(path: Path, overwrite: bool) -> dict[str, Any] | None:
    """What the file says; None where there is none, or where one that cannot be read is to be overwritten."""
    if not path.exists():
        return None
    try:
        found = read_document(path)
    except UserError:
        if overwrite:
            return None
        raise
    if path.name == INDEX_NAME and found.get("format") != FORMAT:
        raise UserError(f"{path} was not made here; give another directory")
    return found


def _is_whole(out: Path) -> bool:
    """Whether nothing of a finished directory was lost or cut since; what was, is built again."""
    try:
        read_index(out)
    except UserError:
        return False
    return True


def _start(out: Path, wanted: dict[str, Any]) -> None:
    """From here on the directory is unfinished; remains of killed writers go."""
    write_durably(out / UNFINISHED_NAME, canonical_json(wanted))
    (out / INDEX_NAME).unlink(missing_ok=True)
    sync_folder(out)
    remove_temporaries(out)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Its kind, the first option, or else the first part of the fingerprint, that is not the same."""
    if _kind(found) != _kind(wanted):
        return f"{_kind(found)}, not {_kind(wanted)}"
    for part in ("options", "fingerprint"):
        before, now = found.get(part) or {}, wanted[part]
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                if name in FROM_OTHERS:
                    return FROM_OTHERS[name]
                if name == "part":
                    whole = "the whole corpus"
                    return f"another part ({before.get(name, whole)}, now {now.get(name, whole)})"
                return f"what was made with another {name} ({_short(before.get(name))}, now {_short(now.get(name))})"
    return "something else"


def _kind(document: dict[str, Any]) -> str:
    if "input" not in (document.get("fingerprint") or {}):
        return "features"
    return "an index of tars" if "prefix_shard" in (document.get("options") or {}) else "audio shards"


def _short(value: Any) -> str:
    text = "default" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
