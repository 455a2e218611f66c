"""Space on the disk: checked before a build, and explained when there is none left."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.durable import FULL
from data_prep.figures import in_units
from data_prep.paths import free_bytes
from model.errors import UserError

FAR_TOO_MUCH = 2.0  # times the free space: no estimate here is so wrong


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
