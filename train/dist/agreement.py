"""Checks that all ranks run the same recipe, code, libraries, data, models and plan; else none runs."""

import hashlib
import platform
import socket
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from train.dist.collectives import AgreedError, World

ROOMS = ("model", "data_prep", "decode", "train")
LIBRARIES = ("torch", "deepspeed", "transformers", "numpy", "safetensors")


def agree_on(world: World, facts: Mapping[str, str]) -> None:
    """AgreedError, with the first difference and who differs, unless all ranks hold the same `facts`. A collective."""
    (host, ours), *others = world.gather((socket.gethostname(), dict(facts)))
    for rank, (other_host, theirs) in enumerate(others, 1):
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise AgreedError(
                    f"the ranks do not run the same {name}: rank 0 on {host} has {ours[name]}, rank {rank} on "
                    f"{other_host} has {theirs.get(name)}; give every host the same"
                )


def versions() -> dict[str, str]:
    """Of this program's code (sha256 over its files), of Python and of the libraries that decide results."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for file in (file for room in ROOMS for file in sorted((root / room).rglob("*.py"))):
        digest.update(f"{file.relative_to(root)} ".encode() + file.read_bytes())
    own = {"code": digest.hexdigest(), "Python": platform.python_version()}
    return own | {name: version(name) for name in LIBRARIES}
