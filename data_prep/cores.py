"""How many cores this process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores by the process's affinity and its control group's quota (of either version), rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(root, own) if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas)]))


def _groups(root: Path, own: Path) -> list[Path]:
    """The control groups that this process is in, from its own up to the root."""
    folders = []
    with suppress(OSError):
        for line in own.read_text().splitlines():  # 0::/path of version 2; 4:cpu,cpuacct:/path of version 1
            _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
            if controllers == "" or "cpu" in controllers.split(","):
                base = root / "cpu" if controllers else root
                inside = base / path.lstrip("/")
                folders += [inside, *(parent for parent in inside.parents if parent.is_relative_to(base))]
    return folders or [root]


def _quota(folder: Path) -> float | None:
    """Cores that a control group may use; None where it has no limit."""
    with suppress(OSError, ValueError):
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
