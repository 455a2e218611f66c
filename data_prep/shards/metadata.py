"""`<key>.json` of a shard: what is said of one utterance."""

from __future__ import annotations

from typing import Any

from data_prep.audio.cuts import MAX_SECONDS
from data_prep.durable import strict_json

KINDS = {"text": str, "seconds": int | float, "language": str, "speaker": str, "task": str, "meta": dict}


def parse_metadata(data: bytes) -> dict[str, Any]:
    """At least KINDS' fields, each of its type. ValueError, in one line, for anything else."""
    try:
        metadata = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {' '.join(str(error).split())}") from None
    if not isinstance(metadata, dict) or not set(KINDS) <= set(metadata):
        raise ValueError(f"it has not the fields {', '.join(sorted(KINDS))}")
    for name, kind in KINDS.items():
        if not isinstance(metadata[name], kind):
            raise ValueError(f"{name} is {repr(metadata[name])[:40]}")
    if not 0 <= metadata["seconds"] <= MAX_SECONDS:
        raise ValueError(f"seconds is {str(metadata['seconds'])[:20]}, an utterance has at most {MAX_SECONDS:,}")
    return metadata
