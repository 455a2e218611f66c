"""Cuts of recordings as rows say them: by start and duration, or by start and end."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from model.errors import UserError

ROUNDED_SECONDS = 0.02  # start, end and duration are often written with two decimals
MAX_SECONDS = 1e9
UNIT = r"(?:[ _-]?(?:m?s|msecs?|secs?|seconds?|milliseconds?|time|stamp|times?tamp|frames?|samples?))?"
OF_WHAT = r"(?:(?:segment|seg|clip|cut|audio|utt|utterance|speech|time|t)[ _-]?)?"
START = re.compile(rf"{OF_WHAT}(?:start|begin|offset|onset){UNIT}", re.IGNORECASE)
END = re.compile(rf"{OF_WHAT}(?:end|stop){UNIT}", re.IGNORECASE)


def end_as_duration(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Utterance, of those and "end": an exact cut, from 0 where no start is said.

    UserError: an end that does not come after the start, a duration that says something else.
    """
    fields = {name: value for name, value in values.items() if name != "end"}
    if "end" not in values:
        return fields
    start, end = fields.setdefault("start", 0.0), values["end"]
    if not (_is_seconds(start) and _is_seconds(end) and start < end):
        raise UserError(f"a cut from {str(start)[:40]} to {str(end)[:40]}; both are seconds, the end after the start")
    said, fields["duration"] = fields.get("duration"), round(end - start, 9)
    if said is not None and not (_is_seconds(said) and abs(said - fields["duration"]) <= ROUNDED_SECONDS):
        raise UserError(
            f"duration is {str(said)[:40]}, but the cut from {start} to {end} s is one of {fields['duration']} s; "
            "say which column not to read: --column duration= or --column end="
        )
    return fields


def require_places_read(taken: Mapping[str, Any], names: Collection[str], said: Collection[str]) -> None:
    """UserError for a column that looks like the start or the end of a cut and is not read.

    `taken`: field to column or None; `said`: the fields that the person has spoken of, which settles them.
    """
    for field, looks, enough in (("start", START, ("start",)), ("end", END, ("end", "duration"))):
        if any(taken.get(name) or name in said for name in enough):
            continue
        name = next((name for name in map(str, names) if looks.fullmatch(name)), None)
        if name is not None:
            raise UserError(
                f"column {name!r} looks like the {field} of a cut, and is not read; if it is that, in seconds: "
                f"--column {field}={name}, if it is not: --column {field}="
            )


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_SECONDS
