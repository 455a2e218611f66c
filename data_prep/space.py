"""Room on a disk, and bytes as a person reads them."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_bytes(out: Path) -> int:
    """On the disk that `out`, which need not exist yet, is on."""
    return shutil.disk_usage(nearest_folder(out)).free


def nearest_folder(out: Path) -> Path:
    """`out`, or the first above it that exists."""
    return next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())


def in_units(count: int) -> str:
    """1.5 GB for 1,500,000,000."""
    size = float(max(0, count))
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"
