"""Numbers as a person reads them."""

from __future__ import annotations


def in_hours(seconds: float) -> str:
    """1,234.56 h; 12.3 min under an hour."""
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"


def counted(number: int, what: str, several: str = "") -> str:
    """ "1 problem", "2 problems"; `several` is for other plurals: counted(2, "directory is", "directories are")."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"
