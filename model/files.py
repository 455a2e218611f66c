"""Hashing of files."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file's bytes. OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
