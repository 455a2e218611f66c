"""speed.json beside a cache's index: how fast its encoder was, so that training can tell whether reading is faster."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data_prep.durable import canonical_json, write_durably
from data_prep.shards.opening import read_document
from model.errors import UserError

SPEED_NAME = "speed.json"


@dataclass(frozen=True)
class Speed:
    """Measured by one rank over all that it encoded in one run, reading and writing included."""

    audio_seconds_per_second: float
    device: str
    ranks: int
    """In that run."""


def write_speed(out: Path, speed: Speed) -> None:
    """Not in the index, as it differs from run to run."""
    write_durably(out / SPEED_NAME, canonical_json(asdict(speed), indent=1) + b"\n")


def read_speed(out: Path) -> Speed | None:
    """None where none was measured, or the file is of another form."""
    try:
        return Speed(**read_document(out / SPEED_NAME))
    except (UserError, TypeError):
        return None


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} processor"
