"""Checks of one host: disk, ports, compilation locks. None changes anything."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data_prep.figures import in_units
from data_prep.paths import free_bytes, nearest_folder
from launch.doctor.result import FAIL, OK, WARN, CheckResult
from train.recipe.config import Config

CHECKPOINT_BYTES = 300e6
"""Adapter and AdamW's moments of 21 M parameters in float32 (258 MB), and some."""
OLD_LOCK_SECONDS = 60.0


def disk(config: Config) -> Iterator[CheckResult]:
    """Room for checkpoints where the run keeps them, for cached features, and for temporary files."""
    run = Path(config.run.dir)
    saves = 2 if config.save.total_limit is None else config.save.total_limit + 2
    yield _room("run.dir", run, 2 * CHECKPOINT_BYTES, saves * CHECKPOINT_BYTES, "make room, or give another run.dir")
    yield _writable(run)
    if config.data.write_features:
        todo = "`slam-asr plan` says how much the frames need"
        yield _room("data.write_features", Path(config.data.write_features), 1e9, 100e9, todo)
    yield _room("temporary files", Path(tempfile.gettempdir()), 100e6, 1e9, "make room, or set TMPDIR")


def _room(what: str, folder: Path, least: float, enough: float, todo: str) -> CheckResult:
    free = free_bytes(folder)
    if free >= enough:
        return CheckResult("disk", OK, f"{what}: room in {folder}", figure=free / 1e9, unit="GB")
    text = f"{what}: room in {folder}, {in_units(round(enough))} are wanted"
    return CheckResult("disk", FAIL if free < least else WARN, text, todo, figure=free / 1e9, unit="GB")


def _writable(folder: Path) -> CheckResult:
    there = nearest_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return CheckResult("disk", FAIL, f"run.dir: cannot write in {there}: {error.strerror}", "give another run.dir")
    return CheckResult("disk", OK, f"run.dir: can be written in {there}")


def locks(folder: Path | None = None, seconds: float = OLD_LOCK_SECONDS) -> Iterator[CheckResult]:
    """Locks of torch's compiler that no process here holds: whoever needs the same operator waits for ever."""
    if folder is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_extensions"
        folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR", home))
    stale = []
    for lock in folder.glob("**/lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > seconds and not _is_open(lock):
                stale.append(lock)
    for lock in stale:
        yield CheckResult("locks", FAIL, f"{lock} is left from a build that was killed", f"rm {lock}")
    if not stale:
        yield CheckResult("locks", OK, "no lock of a killed compilation")


def _is_open(file: Path) -> bool:
    wanted = str(file.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(link) == wanted for link in (process / "fd").iterdir()):
                return True
    return False


def port(number: str) -> CheckResult:
    """Whether rank 0 can listen where the others will look for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            probe.bind(("", int(number)))
        except OSError as error:
            text = f"MASTER_PORT {number} cannot be listened on: {error.strerror}"
            return CheckResult("ports", FAIL, text, "give another MASTER_PORT")
    return CheckResult("ports", OK, f"MASTER_PORT {number} is free")
