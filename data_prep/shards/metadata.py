"""`<key>.json` of a shard: transcript, duration, language, speaker, task and further metadata of one utterance."""

from __future__ import annotations

from typing import Any

from data_prep.audio.cuts import MAX_SECONDS
from data_prep.durable import strict_json

FIELDS = {"text": str, "seconds": int | float, "language": str, "speaker": str, "task": str, "meta": dict}


class Fault(Exception):
    """What is wrong with an utterance in its shard."""


def parse_metadata(key: str, data: bytes) -> dict[str, Any]:
    """At least FIELDS, each of its type. Fault, in one line, for anything else."""
    problem = ""
    try:
        metadata = strict_json(data)
        if not isinstance(metadata, dict) or not FIELDS.keys() <= metadata.keys():
            problem = f"it has not the fields {', '.join(sorted(FIELDS))}"
        elif wrong := [name for name, kind in FIELDS.items() if not isinstance(metadata[name], kind)]:
            problem = f"{wrong[0]} is {repr(metadata[wrong[0]])[:40]}"
        elif not 0 <= metadata["seconds"] <= MAX_SECONDS:
            problem = f"seconds is {str(metadata['seconds'])[:20]}, an utterance has at most {MAX_SECONDS:,}"
        else:
            return metadata
    except (ValueError, RecursionError) as error:
        problem = f"it is no JSON: {' '.join(str(error).split())}"
    raise Fault(f"{key}.json is not what it must be: {problem}")
