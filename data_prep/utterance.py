"""`Utterance`, the contract between importers and everything that reads speech, and its JSONL form."""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_prep.addresses import REMOTE, without_secrets
from data_prep.durable import canonical_json, encodable, open_regular, replacing, strict_json
from model.errors import UserError

MAX_KEY = 95  # characters: a ustar member name has 100 bytes, and ".flac" needs five
KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY}}}")
MAX_POSITION_SECONDS = 1e9  # 31 years; also refuses integers that no float can hold
MAX_LINE_BYTES = 1 << 20  # of a manifest: longer is no utterance
UNPACKED_FLOOR, UNPACKED_RATIO = 64 << 20, 200  # bytes, and as many times the file, that a gzipped manifest may hold


@dataclass(frozen=True)
class Utterance:
    """One recording, or a cut of one, and its transcript. Raises UserError for values that cannot be."""

    key: str  # unique in its corpus, matches KEY; names the members in the shards
    audio: str  # where the recording lies: a local path, an address (s3://...), or what `part` says is in there
    text: str | None  # transcript as written, empty where nothing is said; None where none is known
    start: float | None = None  # seconds into the recording where this cut begins; None for a whole recording
    duration: float | None = None
    """Seconds. Of a cut: exact to the sample, None for "to the end". Of a whole recording: as the corpus states it,
    possibly rounded; where the recording is clearly longer, its beginning is meant, as in NeMo."""
    language: str = ""
    speaker: str = ""
    task: str = "transcribe"
    part: str = ""  # which part of an archive is the recording, in one of the forms of recordings/open.py
    meta: Mapping[str, Any] = field(default_factory=dict)  # everything else that the corpus says, as it is

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not KEY.fullmatch(self.key):
            problem = f"is not 1 to {MAX_KEY} of A-Z a-z 0-9 _ -"
            raise UserError(f"utterance key {_short(self.key)} {problem}; use safe_key()")
        for name in ("audio", "text", "language", "speaker", "task", "part"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name, value) != ("text", None):
                quoted = f', as "{value}" in quotes' if isinstance(value, int | float) else ""
                raise UserError(f"utterance {self.key}: {name} is {_short(value)}, it must be text{quoted}")
        for name in ("start", "duration"):
            value = getattr(self, name)
            if value is not None and (not is_seconds(value) or value < 0):
                raise UserError(f"utterance {self.key}: {name} is {_short(value)}, it must be seconds from 0 on")
        if not isinstance(self.meta, Mapping):
            raise UserError(f"utterance {self.key}: meta is {_short(self.meta)}, it must be an object")


FIELDS = tuple(item.name for item in fields(Utterance))
DEFAULTS = {item.name: item.default for item in fields(Utterance) if item.default is not MISSING} | {"meta": {}}


def safe_key(raw: str) -> str:
    """A legal key for any text: other characters become "_"; a long one is cut and ends in a hash of the whole."""
    key = re.sub(r"[^A-Za-z0-9_-]", "_", raw) or "_"
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{key[: MAX_KEY - 17]}_{digest}"


def read_rows(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for each non-empty line of a JSONL file, gzipped where its name ends in .gz. UserError names file
    and line of what is no object."""
    number = 0
    try:
        packed = path.suffix == ".gz"
        with open_regular(path) as plain, gzip.GzipFile(fileobj=plain) if packed else plain as file:
            limit = UNPACKED_FLOOR + UNPACKED_RATIO * os.fstat(plain.fileno()).st_size
            for number, line in enumerate(iter(lambda: file.readline(max_line_bytes + 1), b""), 1):
                if packed and file.tell() > limit:  # a small file may hold terabytes of zeros
                    problem = f"unpacks to more than {limit:,} bytes"
                    raise UserError(f"{path} {problem}; is it a manifest? unpack it first")
                if line.strip():
                    yield f"{path}:{number}", _row(line, f"{path}:{number}", max_line_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged after line {number:,}: {error}; copy it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a file") from None


def write_jsonl(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> int:
    """Writes one line each and returns their number; the file appears whole or not at all. Audio inside the file's own
    folder is written relative to it, so that the two can move together."""
    path = Path(path)
    home = os.path.abspath(path.parent)
    count = 0
    with replacing(path) as file:
        for utterance in utterances:
            audio = utterance.audio
            if utterance.part != "pipe" and "://" not in audio:
                audio = os.path.abspath(audio)
                audio = os.path.relpath(audio, home) if audio.startswith(home + os.sep) else audio
            try:
                file.write(canonical_json(to_row(utterance) | {"audio": audio}) + b"\n")
            except UnicodeEncodeError:
                problem = f"its audio {encodable(audio)[-80:]!r}, text or meta is not Unicode"
                raise UserError(f"utterance {utterance.key}: {problem}; rename the file or folder") from None
            count += 1
    return count


def to_row(utterance: Utterance) -> dict[str, Any]:
    """The fields that differ from their defaults, as a JSON object."""
    row = {name: getattr(utterance, name) for name in FIELDS} | {"meta": dict(utterance.meta)}
    return {name: value for name, value in row.items() if name not in DEFAULTS or value != DEFAULTS[name]}


def resolve_audio(audio: Any, home: Path, allow_outside: bool = False) -> str:
    """The local path, or the address, that a manifest in folder `home` means. UserError for commands and escapes."""
    if not isinstance(audio, str) or not audio or "\0" in audio:
        raise UserError(f"audio is {_short(audio)}, it must be the path of a file")
    scheme, _, rest = audio.partition("://")
    if rest and scheme in REMOTE:
        return audio
    if rest or audio.startswith(("pipe:", "file:")) or audio.rstrip().endswith("|"):
        problem = f"audio {_short(without_secrets(audio))} is a command or an address that is not read"
        raise UserError(f"{problem}; give a path, or {', '.join(REMOTE)}")
    outside = not os.path.isabs(audio) and os.path.normpath(audio).split(os.sep)[0] == os.pardir
    if outside and not allow_outside:
        raise UserError(f"audio {_short(audio)} leaves the manifest's folder; allow it with --allow-outside")
    return os.path.normpath(home / audio)


def _row(line: bytes, place: str, max_line_bytes: int) -> dict[str, Any]:
    if len(line) > max_line_bytes:
        raise UserError(f"{place}: the line is longer than {max_line_bytes:,} bytes; a manifest has one object a line")
    try:
        row = strict_json(line)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{place}: {not_utf8(error)}; convert the file to UTF-8") from None
        raise UserError(f"{place}: {' '.join(str(error).split())}; a manifest has one JSON object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: {_short(row)} is no object; a manifest has one JSON object a line")
    return row


def not_utf8(error: UnicodeDecodeError) -> str:
    """The message for text of another encoding, with the offending byte, counted from 1."""
    return f"it is not UTF-8 (byte {error.start + 1} is 0x{error.object[error.start]:02x})"


def is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_POSITION_SECONDS


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
