"""speed.json beside a cache's index: how fast its encoder was, so that training can tell whether reading is faster."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data_prep.durable import canonical_json, write_durably
from data_prep.shards.files import read_document
from model.errors import UserError

SPEED_NAME = "speed.json"


@dataclass(frozen=True)
class Speed:
    """As one rank measured it, over all that it encoded in one run, reading and writing included."""

    audio_seconds_per_second: float
    """Of that rank."""
    device: str
    ranks: int
    """That worked beside it, itself included."""


def write_speed(out: Path, speed: Speed) -> None:
    """No part of the index: it is another with each run."""
    write_durably(out / SPEED_NAME, canonical_json(asdict(speed), indent=1) + b"\n")


def read_speed(out: Path) -> Speed | None:
    """None where none was measured, or the file is no such one."""
    try:
        return Speed(**read_document(out / SPEED_NAME))
    except (UserError, TypeError):
        return None


def device_name(device: torch.device) -> str:
    """The GPU's own name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
