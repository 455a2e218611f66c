"""Copies the adapter out of a run: two files that can be shared, checked before and after the copy."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from data_prep.durable import sync_folder
from model import weights
from model.adapters import build_adapter
from model.errors import TransientError, UserError


def export(source: str | Path, out: str | Path) -> weights.AdapterCard:
    """Copies adapter.safetensors and adapter.json of a run, checkpoint or export into the new folder `out`.

    `out` appears whole or not at all. Exporting the same adapter there again does nothing; UserError if `out` holds
    anything else, or if the source is damaged (its hash, names and shapes are checked)."""
    source, out = weights.find_adapter(source), Path(out)
    card, tensors = weights.read_adapter(source)
    weights.load_weights(build_adapter(card.spec), tensors)
    if not os.path.lexists(out):
        try:
            _copy(source, out, card)
        except OSError as error:
            failed = f"cannot write {str(out)!r}: {error.strerror or error}; nothing was left there"
            raise TransientError(f"{failed}, make room or name another folder") from None
    elif not _holds(out, card):
        raise UserError(f"{str(out)!r} is there already and holds something else; name a new folder")
    return card


def _copy(source: Path, out: Path, card: weights.AdapterCard) -> None:
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}."))
    try:
        copied = weights.moved_card(card, source, temporary)
        weights.write_synced(temporary / weights.WEIGHTS, (source / weights.WEIGHTS).read_bytes())
        weights.write_card(temporary, copied)
        assert weights.read_adapter(temporary)[0] == copied, "the copy differs from what was checked"
        temporary.chmod(0o755)  # mkdtemp's folder is closed to others
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)


def _holds(out: Path, card: weights.AdapterCard) -> bool:
    """Whether `out` holds this adapter; paths to encoder and LLM may differ, as the folders do."""
    try:
        return replace(weights.read_adapter(out)[0], encoder_path=card.encoder_path, llm_path=card.llm_path) == card
    except (OSError, UserError):
        return False
