"""Opening recordings wherever they lie. `Utterance.part` says which part of `Utterance.audio` is the recording:

| part | audio |
|---|---|
| (empty) | a local file, or an address that fsspec knows (s3://...) |
| bytes:OFFSET:LENGTH | a stretch of such a file: a member of a tar, an entry of a Kaldi ark |
| row:NUMBER:COLUMN | a Parquet file; rows are counted from 0, the column holds the file's bytes (or `{bytes, path}`) |
| pipe | a command, as Kaldi's `cmd |`: run without a shell, only with --allow-pipes |
| fault:REASON:MESSAGE | anything: the importer has no recording for this utterance, for this reason |
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable

from data_prep.addresses import is_remote
from data_prep.audio.decode import AudioError, Source, open_stream
from data_prep.recordings.parquet import recording_at
from data_prep.recordings.pipes import output_of
from data_prep.recordings.remote import recording
from data_prep.recordings.windows import Stretch
from data_prep.remote import objects


def open_source(audio: str, part: str = "", allow_pipes: bool = False) -> Source:
    """The recording, to be decoded. AudioError for an impossible part, OSError for what cannot be read."""
    kind, _, place = part.partition(":")
    if kind == "pipe":
        return output_of(audio, allow_pipes)
    if kind == "row":
        number, _, column = place.partition(":")
        return recording_at(audio, _number(number, part), column)
    if kind == "fault":
        reason, _, message = place.partition(":")
        raise AudioError(reason, message)
    if kind not in ("", "bytes"):
        raise AudioError("bad-part", f"part {part[:60]!r} of a recording is not known")
    first, length = (_number(text, part) for text in place.split(":", 1)) if kind else (0, None)
    if is_remote(audio):
        return recording(audio, first, length)
    if size_of(audio) < 0:
        raise FileNotFoundError(2, "there is no such file", audio)
    return Stretch(audio, first, length) if length is not None else audio


def size_of(audio: str, part: str = "") -> int:
    """Bytes of the regular file or of the object, -1 where there is none (a pipe or a device is none)."""
    if part == "pipe":
        return 0
    if is_remote(audio):
        return objects.size(audio)
    try:
        status = os.stat(audio)
    except (OSError, ValueError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def remote_sizes(audios: Iterable[str]) -> dict[str, int]:
    """`size_of` those that are addresses, asked for in parallel."""
    addresses = sorted({audio for audio in audios if is_remote(audio)})
    return dict(zip(addresses, objects.sizes(addresses), strict=True)) if addresses else {}


def read_all(source: Source) -> bytes:
    """All bytes of the recording."""
    with open_stream(source) as stream:
        return stream.read()


def length_of(source: Source) -> int:
    """Bytes of the recording itself."""
    with open_stream(source) as stream:
        return stream.seek(0, io.SEEK_END)


def _number(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise AudioError("bad-part", f"part {part[:60]!r} of a recording is not as it must be")
    return int(text)
