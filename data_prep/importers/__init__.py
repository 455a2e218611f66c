"""One file a corpus; a new corpus is one file here and one line in IMPORTERS."""

from __future__ import annotations

from pathlib import Path

from data_prep.importers.jsonl import import_jsonl, is_jsonl
from data_prep.importers.librispeech import import_librispeech, is_librispeech
from data_prep.importers.options import Importer, ImportOptions
from model.errors import UserError

__all__ = ["IMPORTERS", "ImportOptions", "Importer", "guess_importer"]

IMPORTERS: dict[str, Importer] = {
    "librispeech": Importer(import_librispeech, is_librispeech, "the folder LibriSpeech was unpacked to, or a split"),
    "jsonl": Importer(import_jsonl, is_jsonl, "a .jsonl manifest with audio and text, of ours or alike"),
}


def guess_importer(source: Path) -> str:
    """The first kind that recognises `source`; UserError if none does."""
    if not source.exists():
        raise UserError(f"there is no {source}; give a corpus folder or a manifest")
    for name, importer in IMPORTERS.items():
        if importer.recognises(source):
            return name
    raise UserError(f"{source} is of no kind that is known; name it: --importer {', '.join(IMPORTERS)}")
