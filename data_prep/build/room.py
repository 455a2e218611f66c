"""Room on the disk: what a build will need, said before it starts and when there is none left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.build.lengths import Size, is_costly, measure_one
from data_prep.build.prepare import Limits
from data_prep.figures import counted, in_units
from data_prep.paths import free_bytes
from data_prep.utterance import Utterance
from model.errors import UserError

LOOKED_AT = 200  # utterances, spread over the corpus
FAR_TOO_MUCH = 2.0  # times what is free: no estimate here is so wrong


def expected_bytes(utterances: Sequence[Utterance], sizes: Sequence[Size], limits: Limits) -> int:
    """Of all shards, by the sizes measured, else by some utterances' durations and headers; 0 where none are known."""
    if sizes:
        return sum(size.bytes for size in sizes)
    some = [u for u in utterances[:: -(-len(utterances) // LOOKED_AT)] if u.duration is not None or not is_costly(u)]
    found = sum(measure_one(utterance, limits, only_seconds=True).bytes for utterance in some)
    return round(found * len(utterances) / max(1, len(some)))


def require_room(out: Path, expected: int) -> None:
    """UserError where `expected` bytes cannot go into `out`; a warning where they probably cannot."""
    missing, free = expected - _built(out), free_bytes(out)
    figures = f"{out}: about {in_units(missing)} are to be written, {in_units(free)} are free"
    if missing > FAR_TOO_MUCH * free:
        raise UserError(f"{figures}; make room, or give another directory")
    if missing > free:
        print(f"warning: {figures}; it will probably not be enough", file=sys.stderr)


def when_full(out: Path, written: int, done: int, total: int, expected: int) -> str:
    """One line for a full disk: what is free and what is missing, by the `written` bytes of the `done` utterances."""
    rest = round(written / done * (total - done)) if done else expected
    needed = f"about {in_units(rest)} more are needed" if rest else "how much is needed is not known yet"
    return (
        f"no space left for {out}: {in_units(free_bytes(out))} are free, {needed}; {done:,} of "
        f"{counted(total, 'utterance')} are in finished shards, which stay valid: make room and run it again"
    )


def _built(out: Path) -> int:
    return sum(path.stat().st_size for path in out.glob("shard-*.tar"))
