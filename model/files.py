"""Hashing of files, the user's cache, and the writing of models."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = "SLAM_ASR_CACHE"  # environment; processes that are started inherit it


def cache_path() -> Path:
    """The folder for what can be made again: copies of shards, and GGUF files as Hugging Face folders."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE) or os.path.join(home, "slam-asr")).expanduser()


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file's bytes. OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def saving_pretrained() -> Iterator[None]:
    """Around transformers' save_pretrained, which imports deepspeed: that would say which accelerator it finds.
    DS_ACCELERATOR silences it too, but it decides where this process, and all that it starts, compute."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger("DeepSpeed")
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)
