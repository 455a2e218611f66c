"""What an importer is, its options, and the remarks it prints about a corpus that it can read."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from data_prep.utterance import Utterance
from model.errors import UserError, closest, counted


@dataclass(frozen=True)
class ImportOptions:
    audio_root: Path | None = None
    """Where relative audio paths start, if not at the manifest's own folder."""
    allow_outside: bool = False
    """Relative paths may leave that folder."""
    allow_pipes: bool = False
    """Commands in place of files (Kaldi's `cmd |`) are kept, to be run by the build without a shell."""
    split: str = ""
    """Which split of a corpus that holds several in one place; empty for the importer's own choice, or all."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of tables: field of Utterance to the column that holds it."""


DEFAULTS = ImportOptions()


class Importer(NamedTuple):
    read: Callable[[Path, ImportOptions], Iterator[Utterance]]
    """Utterances in the corpus's own order; UserError for a corpus that is not as it must be."""
    recognises: Callable[[Path], bool]
    """Whether this path, which exists, looks like one; cheap, never raises. The first entry that says so is taken."""
    what: str  # in one line, what to give it
    takes: tuple[str, ...] = ()
    """Which of audio_root, split and columns it uses; the command refuses the others."""
    finds_deep: Callable[[Path], bool] | None = None
    """Whether such a corpus lies deep in a folder that no importer recognises, and that holds no manifest."""


class Recording(NamedTuple):
    """`audio` and `part` of an Utterance."""

    audio: str
    part: str = ""


def report_unmatched(names: Sequence[object], singular: str, plural: str) -> None:
    """One line to stderr if there are any: the number with "recording has no transcript" or its plural."""
    if names:
        say(f"{counted(len(names), singular, plural)}, {names[0]} first")


def say(remark: str) -> None:
    print(remark, file=sys.stderr, flush=True)


def faulty(utterance: Utterance, reason: str, why: str) -> Utterance:
    """The same as one that import and build count as bad, by this reason."""
    return replace(utterance, text=f"not used: {why}", part=f"fault:{reason}:{why}")  # no text is another fault


@contextmanager
def at(place: str) -> Iterator[None]:
    """Puts the place, such as FILE:LINE, before the message of a UserError that is raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a "no X" message: the nearest name that there is, or all of them."""
    near = closest(name, map(str, known))
    return f"; did you mean {near!r}?" if near else f"; there are: {shown(known)}"


def shown(names: Collection[str]) -> str:
    """At most 20 names, each cut at 40 characters, for a message."""
    listed = [str(name)[:40] for name in names]
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20:,} more" if len(listed) > 20 else "") or "none"
