"""One file a corpus; a new corpus is one file here and one line in IMPORTERS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.importers.jsonl import import_jsonl
from data_prep.importers.librispeech import import_librispeech
from data_prep.utterance import Utterance
from model.errors import UserError

Importer = Callable[[Path], Iterator[Utterance]]

IMPORTERS: dict[str, Importer] = {"librispeech": import_librispeech, "jsonl": import_jsonl}


def guess_importer(source: Path) -> str:
    """A folder is a LibriSpeech tree, a .jsonl or .json file a manifest; UserError for anything else."""
    if source.is_dir():
        return "librispeech"
    if not source.exists():
        raise UserError(f"there is no {source}; give a LibriSpeech folder or a .jsonl manifest")
    if source.suffix in (".jsonl", ".json"):
        return "jsonl"
    raise UserError(
        f"{source} is neither a folder nor a .jsonl file; name its kind: --importer {' or '.join(IMPORTERS)}"
    )
