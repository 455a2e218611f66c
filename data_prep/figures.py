"""Numbers as a person reads them."""

from __future__ import annotations

from model.errors import counted

__all__ = ["counted", "in_hours"]


def in_hours(seconds: float) -> str:
    """1,234.56 h; 12.3 min under an hour."""
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"
