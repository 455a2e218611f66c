"""The adapter out of a run: two files that can be shared, checked before and after the copy."""

import os
import shutil
import tempfile
from pathlib import Path

from data_prep.durable import sync_folder
from model.adapter import build_adapter
from model.errors import UserError
from model.weights import CARD, WEIGHTS, AdapterCard, find_adapter, load_weights, read_adapter, write_synced


def export(source: str | Path, out: str | Path) -> AdapterCard:
    """Copies adapter.safetensors and adapter.json of a run, checkpoint or export into the new folder `out`.

    `out` appears whole or not at all. Exporting the same adapter there again does nothing; UserError if `out` holds
    anything else, or if the source is damaged (its hash, names and shapes are checked).
    """
    source, out = find_adapter(source), Path(out)
    card, weights = read_adapter(source)
    load_weights(build_adapter(card.spec), weights)
    if os.path.lexists(out):
        _require_same(source, out)
        return card
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        for name in (WEIGHTS, CARD):
            write_synced(temporary / name, (source / name).read_bytes())
        assert read_adapter(temporary)[0] == card, "the copy differs from what was checked"
        temporary.chmod(0o755)  # mkdtemp's folder is closed to others
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(out.absolute().parent)
    return card


def _require_same(source: Path, out: Path) -> None:
    try:
        same = all((out / name).read_bytes() == (source / name).read_bytes() for name in (WEIGHTS, CARD))
    except OSError:
        same = False
    if not same:
        raise UserError(f"{str(out)!r} is there already and holds something else; name a new folder")
