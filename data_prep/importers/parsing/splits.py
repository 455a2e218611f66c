"""Which split of a corpus that holds several in one place."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from data_prep.importers.parsing.rows import nearest
from model.errors import UserError


def chosen_splits(splits: Sequence[str], wanted: str, corpus: Path) -> list[str]:
    """Those that the pattern `wanted` fits (train, train*, * for all); without one, the only split there is.

    UserError: none fits, or there are several and none was asked for: test data would be trained on unseen.
    """
    if not wanted and len(splits) > 1:
        raise UserError(f"{corpus} holds several splits: {', '.join(splits)}; choose with --subset NAME, or '*'")
    chosen = [split for split in splits if not wanted or fnmatchcase(split, wanted)]
    if not chosen:
        raise UserError(f"{corpus} has no split {wanted!r}{nearest(wanted, splits)}")
    return chosen
