"""What a person may say to an importer, and what an importer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.utterance import Utterance


@dataclass(frozen=True)
class ImportOptions:
    """Each importer reads those that mean something to it."""

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


class Importer(NamedTuple):
    """One entry of IMPORTERS."""

    read: Callable[[Path, ImportOptions], Iterator[Utterance]]
    """Utterances in the corpus's own order; UserError for a corpus that is not as it must be."""
    recognises: Callable[[Path], bool]
    """Whether this path, which exists, looks like one; cheap, never raises. The first entry that says so is taken."""
    what: str
    """In one line, what to give it."""
    takes: tuple[str, ...] = ()
    """Which of audio_root, split and columns mean something to it; the command refuses those that do not."""
    finds_deep: Callable[[Path], bool] | None = None
    """Whether such a corpus lies deep in a folder that no importer recognises, and that holds no manifest."""
