"""Copies the adapter out of a run: two files that can be shared, checked before and after the copy."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from data_prep.durable import sync_folder
from model.adapter import build_adapter
from model.errors import TransientError, UserError
from model.weights import (
    WEIGHTS,
    AdapterCard,
    find_adapter,
    load_weights,
    moved_card,
    read_adapter,
    write_card,
    write_synced,
)


def export(source: str | Path, out: str | Path) -> AdapterCard:
    """Copies adapter.safetensors and adapter.json of a run, checkpoint or export into the new folder `out`.

    `out` appears whole or not at all. Exporting the same adapter there again does nothing; UserError if `out` holds
    anything else, or if the source is damaged (its hash, names and shapes are checked).
    """
    source, out = find_adapter(source), Path(out)
    card, weights = read_adapter(source)
    load_weights(build_adapter(card.spec), weights)
    if os.path.lexists(out):
        _require_same(card, out)
        return card
    try:
        _write(out, (source / WEIGHTS).read_bytes(), card, source)
    except OSError as error:
        raise TransientError(
            f"cannot write {str(out)!r}: {error.strerror or error}; nothing was left there, make room or name another "
            "folder"
        ) from None
    return card


def _write(out: Path, data: bytes, card: AdapterCard, source: Path) -> None:
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}."))
    try:
        copied = moved_card(card, source, temporary)
        write_synced(temporary / WEIGHTS, data)
        write_card(temporary, copied)
        assert read_adapter(temporary)[0] == copied, "the copy differs from what was checked"
        temporary.chmod(0o755)  # mkdtemp's folder is closed to others
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)


def _require_same(card: AdapterCard, out: Path) -> None:
    """UserError unless `out` holds this adapter; paths to encoder and LLM may differ, as the folders do."""
    try:
        same = replace(read_adapter(out)[0], encoder_path=card.encoder_path, llm_path=card.llm_path) == card
    except (OSError, UserError):
        same = False
    if not same:
        raise UserError(f"{str(out)!r} is there already and holds something else; name a new folder")
