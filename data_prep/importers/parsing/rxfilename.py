"""How toolkits write where a recording is: a path, and in Kaldi's lists also `command |` or `file.ark:OFFSET`.

An ark is one entry after the other, each `KEY ` and then a WAV file, a FLAC file, or kaldiio's `AUDIO`, a length and a
file of any format. A WAV states its length unless it was written to a pipe; a FLAC does not: such an entry ends where
the next one begins, which is known only if the list names that one too."""

import bisect
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from data_prep.addresses import is_remote, without_secrets
from data_prep.audio.decode import AudioError
from data_prep.audio.truncation import MAX_CHUNKS, STREAMED
from data_prep.importers.parsing.importer import ImportOptions, Recording
from data_prep.recordings.pipes import stages
from data_prep.utterance import resolve_audio
from model.errors import UserError

IN_ARK = re.compile(r"(.+):([0-9]{1,18})")
NEXT_ENTRIES = (b" fLaC", b" RIFF", b" AUDIO")
WINDOW = 1 << 20  # bytes, searched at a time


class Recordings:
    """Finds the recordings of one list. Relative paths start at `home`, or at `options.audio_root`."""

    def __init__(self, home: Path, options: ImportOptions, listed: Iterable[tuple[str, str]] | None = None) -> None:
        """`listed`: key and place of every entry, of lists that may name commands and arks."""
        self.home, self.options = options.audio_root or home, options
        self._plain, self._checked = listed is None, False
        self._starts: dict[str, list[tuple[int, str]]] = {}  # of the entries of each ark
        for key, written in listed or ():
            match = IN_ARK.fullmatch(written)
            if match:
                self._starts.setdefault(match[1], []).append((int(match[2]), key))
        for starts in self._starts.values():
            starts.sort()

    def find(self, written: str) -> Recording:
        """UserError: a command that is not allowed or cannot be run, an entry that is no recording, a first path that
        does not exist (later ones are counted by the build)."""
        if not self._plain and written.endswith("|"):
            command = written[:-1].strip()
            if not self.options.allow_pipes:
                raise UserError(f"{command[:80]!r} is a command, not a file; allow such with --allow-pipes")
            try:
                stages(command)
            except AudioError as error:
                raise UserError(str(error)) from None
            return Recording(command, "pipe")
        match = None if self._plain else IN_ARK.fullmatch(written)
        path = resolve_audio(match[1] if match else written, self.home, self.options.allow_outside)
        if not self._checked:
            require_found(path, self.home)
            self._checked = True
        if not match:
            return Recording(path)
        if is_remote(path):
            raise UserError(f"{without_secrets(path)} is an ark at an address; copy it to this machine")
        if not os.path.isfile(path):  # a FIFO would wait for a writer
            return Recording(path, f"fault:missing-audio:there is no file {path}")
        try:
            with open(path, "rb", buffering=0) as ark:
                first, length = _stretch(ark.fileno(), path, int(match[2]), self._starts[match[1]])
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; copy the ark again") from None
        return Recording(path, f"bytes:{first}:{length}")


def require_found(path: str, home: Path) -> None:
    """UserError if a local path does not exist; for the first of a list, since all others will be missing alike."""
    if not is_remote(path) and not os.path.exists(path):
        raise UserError(f"there is no {path}; relative paths start at {home}: give another folder with --audio-root")


def _stretch(ark: int, path: str, offset: int, starts: list[tuple[int, str]]) -> tuple[int, int]:
    """First byte and number of bytes of the recording in the entry at `offset`."""
    size = os.fstat(ark).st_size
    head = os.pread(ark, 16, offset)
    if offset >= size:
        raise UserError(f"{path} has {size:,} bytes, no entry at {offset:,}; is the list of another ark?")
    if head.startswith(b"AUDIO") and len(head) > 6:
        first = offset + 6 + head[5]
        return first, int.from_bytes(os.pread(ark, head[5], offset + 6), "little")
    if head.startswith((b"\0B", b"NPY", b"PKL")):
        raise UserError(f"{path}:{offset} holds numbers (features, or an array), not audio")
    length = _wav_length(ark, path, offset, size) if head.startswith(b"RIFF") else 0
    if not length and not head.startswith((b"RIFF", b"fLaC")):
        raise UserError(f"{path}:{offset} is neither WAV nor FLAC; is the offset right?")
    return offset, length or _end(ark, path, offset, size, starts) - offset


def _wav_length(ark: int, path: str, offset: int, size: int) -> int:
    """Bytes of the WAV file at `offset`, by its headers; 0 where they do not state it."""
    whole = int.from_bytes(os.pread(ark, 4, offset + 4), "little")
    position = offset + 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > size:
            break
        name, length = struct.unpack("<4sI", os.pread(ark, 8, position))
        position += 8
        if name == b"data":
            end = position + length  # past the ark's own end: the build will find it cut off
            if not 0 < length < STREAMED:
                return 0
            return max(end, offset + 8 + whole if whole < STREAMED and offset + 8 + whole <= size else 0) - offset
        position += length + (length & 1)
    raise UserError(f"{path}:{offset} is a WAV file without sound in it; is the ark damaged?")


def _end(ark: int, path: str, offset: int, size: int, starts: list[tuple[int, str]]) -> int:
    """Where the entry at `offset` ends, by the next one that the list names, or by the end of the ark."""
    end = size
    later = bisect.bisect_right(starts, (offset, "\U0010ffff"))
    if later < len(starts):
        start, key = starts[later]
        token = key.encode() + b" "
        end = start - len(token)
        if end <= offset or os.pread(ark, len(token), end) != token:
            raise UserError(f"{path}:{start}: the entry in the ark is not named {key!r}; is the list of another ark?")
    for position in range(offset + 4, end, WINDOW):
        window = os.pread(ark, min(WINDOW + 8, end - position), position)
        if any(mark in window for mark in NEXT_ENTRIES):
            raise UserError(
                f"{path}:{offset} does not state its length, and the list leaves out the entry behind it; "
                "give the list of the whole ark"
            )
    return end
