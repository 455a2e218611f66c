"""What befalls a rank from within: given to `ranks.start` as `before`, called in each rank before training starts.

Each is exact about its moment, which a signal from another process cannot be.
"""

import json
import os
import pkgutil
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

STEP, FIT, SAVE = "train.loop:train_step", "train.loop:fit", "train.run:Run._write"
VALIDATION = "train.report.evaluate:Evaluator.__call__"


def before_call(place: str, nth: int, act: Callable[[], None]) -> None:
    """Has `act` called when the function at `place`, as "package.module:name", is entered for the `nth` time."""
    module, _, name = place.partition(":")
    *outer, last = name.split(".")
    owner = pkgutil.resolve_name(f"{module}:{'.'.join(outer)}") if outer else pkgutil.resolve_name(module)
    original = getattr(owner, last)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            act()
        return original(*args, **kwargs)

    setattr(owner, last, wrapped)


@dataclass(frozen=True)
class Signalled:
    """The ranks in `victims` send themselves a signal at a place, having stood there for `after` seconds."""

    number: signal.Signals
    victims: tuple[int, ...]
    place: str = STEP
    nth: int = 1
    after: float = 0.0

    def __call__(self, rank: int) -> None:
        if rank in self.victims:
            before_call(self.place, self.nth, self._send)

    def _send(self) -> None:
        time.sleep(self.after)
        os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class CopiedSaving:
    """What kill -9 of rank 0 would leave of `run` just before system calls of its saves, copied to `folder`/0, 1 ...

    `calls` are patterns for "rename checkpoints/.tmp-step-00000004-77", in the order in which they come. A file about
    to be synced is cut in half in the copy: the disk had got no further.
    """

    run: Path
    calls: tuple[str, ...]
    folder: Path

    def __call__(self, rank: int) -> None:
        if rank == 0:
            before_call(SAVE, 1, self._arm)

    def _arm(self) -> None:
        left = list(enumerate(self.calls))
        for name in ("fsync", "rename", "symlink", "unlink", "rmdir"):
            setattr(os, name, self._watched(name, getattr(os, name), left))

    def _watched(self, name: str, original: Callable[..., Any], left: list[tuple[int, str]]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            target = args[1] if name == "symlink" else args[0]
            path = Path(os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target)
            if left and fnmatchcase(f"{name} {path.parent.name}/{path.name}", left[0][1]):
                number, _ = left.pop(0)
                copy = shutil.copytree(self.run, self.folder / f"{number}", symlinks=True)
                if name == "fsync" and path.is_file():
                    os.truncate(copy / path.relative_to(self.run), path.stat().st_size // 2)
            return original(*args, **kwargs)

        return call


@dataclass(frozen=True)
class ShardFault:
    """Rank 0 damages a shard at a place: "vanish", "truncate" or "change"; it is whole again after `seconds`, if given.

    At FIT no rank has read anything yet.
    """

    shard: Path
    fault: str
    seconds: float | None = None
    place: str = FIT
    nth: int = 1

    def __call__(self, rank: int) -> None:
        if rank == 0:
            before_call(self.place, self.nth, self._damage)

    def _damage(self) -> None:
        data, kept = self.shard.read_bytes(), self.shard.with_suffix(".kept")
        kept.write_bytes(data)
        if self.fault == "vanish":
            self.shard.unlink()
        elif self.fault == "truncate":
            os.truncate(self.shard, len(data) // 2)
        else:  # inside the first recording; the size stays
            self.shard.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
        if self.seconds is not None:
            threading.Timer(self.seconds, kept.replace, [self.shard]).start()


@dataclass(frozen=True)
class FileLimit:
    """No file that rank 0 writes from its `nth` save on may grow beyond so many bytes: write(2) fails with EFBIG, in
    the middle of a file, as it does with ENOSPC on a full disk."""

    size: int
    nth: int

    def __call__(self, rank: int) -> None:
        if rank == 0:
            limit = (self.size, resource.RLIM_INFINITY)
            before_call(SAVE, self.nth, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))


@dataclass(frozen=True)
class DiskFills:
    """Rank 0's `nth` save finds the disk of `folder` full but for `left` bytes: `folder`/ballast took the rest.

    With `nth` 0 it is so from the start.
    """

    folder: Path
    left: int
    nth: int

    def __call__(self, rank: int) -> None:
        if rank == 0 and self.nth:
            before_call(SAVE, self.nth, self._fill)
        elif rank == 0:
            self._fill()

    def _fill(self) -> None:
        (self.folder / "ballast").write_bytes(b"\0" * (shutil.disk_usage(self.folder).free - self.left))


@dataclass(frozen=True)
class OtherCode:
    """Rank 1 runs another version of one file; `folder` is where its copy of the rooms is made."""

    folder: Path

    def __call__(self, rank: int) -> None:
        from train.dist import collectives

        if rank == 1:
            source = Path(collectives.__file__).parents[2]
            for room in collectives.ROOMS:
                for file in (source / room).rglob("*.py"):
                    copy = self.folder / file.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy)
            collectives.__file__ = str(self.folder / "train" / "dist" / "collectives.py")
            (self.folder / "train" / "loop.py").write_text("# changed\n")


@dataclass(frozen=True)
class Recorded:
    """Each rank writes {step, keys} of each step it takes into `folder`/rank-R.jsonl; then `accident` befalls it."""

    folder: Path
    accident: Callable[[int], None] | None = None

    def __call__(self, rank: int) -> None:
        from train import loop

        self.folder.mkdir(parents=True, exist_ok=True)
        original, path = loop.train_step, self.folder / f"rank-{rank}.jsonl"

        def recorded(run: Any, share: Any, *args: Any) -> Any:
            with open(path, "a") as file:
                epoch = run.loader.epochs.locate(run.step)[0]
                file.write(json.dumps({"step": run.step + 1, "epoch": epoch, "keys": share.keys}) + "\n")
            return original(run, share, *args)

        loop.train_step = recorded
        if self.accident:
            self.accident(rank)
