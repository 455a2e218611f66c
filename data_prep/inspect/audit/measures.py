"""One row of numbers an utterance: all that an audit keeps of it, so that a million of them need 150 MB."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import Sample
from data_prep.text import JOINERS
from model.sample_rate import SAMPLE_RATE

FRAME = 400  # samples: 25 ms, a few periods of the deepest voice
LOUD, QUIET = 95, 5  # percentiles of the frames' levels: the level of the speech, and of the background
SILENCE_BELOW_LOUD_DB = 40.0  # vowels and fricatives lie within it, pauses in a quiet room beyond
SILENCE_DBFS = -70.0  # whatever the speech: a few steps of 16 bit
FLOOR = 1e-10  # power: -100 dBFS, below the 16-bit step
MARKUP = re.compile(
    r"<[^<>\s][^<>]{0,80}>"  # <unk>, <b>, </i>
    r"|\[[^\[\]]{1,40}\]"  # [noise]
    r"|\{[^{}]{0,80}\}"  # {laughter}
    r"|\b(?:https?://|www\.)\S+"
    r"|&(?:[a-z]{2,8}|#\d{1,6});",  # &amp;
    re.IGNORECASE,
)
BROKEN = re.compile("\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")  # UTF-8 read as Latin-1 or Windows-1252
SCRIPTS = (  # the first word of a letter's Unicode name
    *("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "DEVANAGARI"),
    *("BENGALI", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "GUJARATI", "GURMUKHI", "ORIYA", "SINHALA", "THAI", "LAO"),
    *("KHMER", "MYANMAR", "TIBETAN", "GEORGIAN", "ARMENIAN", "ETHIOPIC", "MONGOLIAN", "SYRIAC", "THAANA", "CHEROKEE"),
    *("FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "OTHER"),
)
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")  # written without spaces
LATIN_TOO = ("FEMININE", "MASCULINE", "MICRO", "KELVIN", "ANGSTROM")
WAVE = {  # f4; NaN where no wave was decoded
    "clipped": "share of samples at full scale",
    "dc": "the mean, of full scale",
    "level": "dBFS of the loud frames",
    "range": "dB between loud and quiet frames",
    "silence": "share of frames",
    "leading": "seconds of silence at the start",
    "trailing": "seconds of silence at the end",
}
ROW = np.dtype(
    [
        ("number", "i8"),  # of the utterance in the index
        ("seconds", "f8"),
        ("characters", "i4"),
        ("language", "i4"),  # position in Measured.languages
        ("speaker", "i4"),
        ("text_hash", "u8"),  # of the words alone
        ("letters", "i4"),  # letters and digits
        ("words", "i4"),  # 0 in scripts without spaces, as the next
        ("longest_word", "i4"),  # characters
        ("capitals", "?"),
        *((name, "i4") for name in ("digits", "markup", "control", "broken")),
        ("scripts", "u8"),  # bits
        ("audio_hash", "u8"),  # of the decoded samples, or of the frames; 0 where nothing was decoded
        *((name, "f4") for name in WAVE),
    ]
)


@dataclass(frozen=True)
class Measured:
    """Rows of the utterances that could be read, and the names that they point to."""

    rows: np.ndarray  # ROW [N]
    languages: list[str]
    speakers: list[str]


class Measurer:
    """Measures the utterances of one shard, as check_shard reads them."""

    def __init__(self, index: ShardIndex | None) -> None:
        self._index = index
        self._rows: list[tuple] = []
        self._languages: dict[str, int] = {}
        self._speakers: dict[str, int] = {}

    def look(self, i: int, sample: Sample, wave: np.ndarray | None) -> None:
        """Utterance `i`; `wave`, float32 [N], is None where none was decoded, then the sample's media may be empty."""
        assert self._index is not None
        meta = sample.meta
        values = {"number": i, "seconds": float(self._index.samples[i]) / SAMPLE_RATE, "characters": len(meta["text"])}
        values["language"] = self._languages.setdefault(meta["language"], len(self._languages))
        values["speaker"] = self._speakers.setdefault(meta["speaker"], len(self._speakers))
        values |= measure_text(meta["text"])
        if wave is not None:
            values |= measure_wave(wave)
        else:
            frames = self._index.kind == "features" and sample.media
            values |= {"audio_hash": hash_of(memoryview(sample.media)) if frames else 0, **dict.fromkeys(WAVE, np.nan)}
        self._rows.append(tuple(values[name] for name in ROW.fields or ()))

    def measured(self) -> Measured:
        return Measured(np.array(self._rows, ROW), list(self._languages), list(self._speakers))


def joined(parts: Iterable[tuple[Measured, int]]) -> Measured:
    """Those of shards, each with its first utterance's number, as one."""
    languages: dict[str, int] = {}
    speakers: dict[str, int] = {}
    rows = [np.zeros(0, ROW)]
    for part, first in parts:
        moved = part.rows.copy()
        moved["number"] += first
        for column, names, known in (("language", part.languages, languages), ("speaker", part.speakers, speakers)):
            numbers = np.array([known.setdefault(name, len(known)) for name in names] or [0], np.int32)
            moved[column] = numbers[part.rows[column]]
        rows.append(moved)
    return Measured(np.concatenate(rows), list(languages), list(speakers))


def measure_wave(wave: np.ndarray) -> dict[str, Any]:
    """Columns of ROW that float32 [N] gives; levels in dBFS of a frame's mean power."""
    mean = wave.mean()
    steps = np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)
    centred = wave - mean
    frames = centred[: len(wave) // FRAME * FRAME].reshape(-1, FRAME) if len(wave) >= FRAME else centred[None]
    level = 10 * np.log10(np.maximum(np.einsum("ij,ij->i", frames, frames) / frames.shape[1], FLOOR))  # dBFS
    quiet, loud = np.percentile(level, (QUIET, LOUD))
    silent = level < max(loud - SILENCE_BELOW_LOUD_DB, SILENCE_DBFS)
    voiced = np.flatnonzero(~silent)
    first, last = (int(voiced[0]), int(voiced[-1]) + 1) if len(voiced) else (len(level), len(level))
    return {
        "audio_hash": hash_of(steps.data),
        "clipped": np.count_nonzero((steps == 32767) | (steps == -32768)) / len(steps),
        "dc": abs(float(mean)),
        "level": loud,
        "range": loud - quiet,
        "silence": silent.mean(),
        "leading": first * FRAME / SAMPLE_RATE,
        "trailing": (len(level) - last) * FRAME / SAMPLE_RATE,
    }


def measure_text(text: str) -> dict[str, Any]:
    """Columns of ROW that a transcript gives: counts and a hash, no text is kept. The hash is over the words alone: no
    case, no punctuation, compatible forms of characters made one."""
    plain = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
    scripts = 0  # a bit for each of SCRIPTS
    for character in set(text):
        scripts |= _script_bit(character)
    words = [] if scripts & sum(1 << SCRIPTS.index(name) for name in UNSPACED) else text.split()
    return {
        "text_hash": hash_of(plain.encode("utf-8", "surrogatepass")),
        "letters": len(plain.replace(" ", "")),
        "words": len(words),
        "longest_word": max(map(len, words), default=0),
        "capitals": text.isupper(),
        "digits": sum(map(str.isdigit, text)),
        "markup": len(MARKUP.findall(text)),
        "control": 0 if text.isascii() and text.isprintable() else sum(map(_is_control, text)),
        "broken": 0 if text.isascii() else len(BROKEN.findall(text)),
        "scripts": scripts,
    }


def hash_of(data: bytes | memoryview) -> int:
    """64 bits: among a million, one chance in thirty million that two differ and are taken for the same."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def names_of(scripts: int) -> str:
    """ "Latin, Cyrillic" for the bits that are set."""
    return ", ".join(name.capitalize() for place, name in enumerate(SCRIPTS) if scripts >> place & 1)


@lru_cache(maxsize=1 << 16)
def _script_bit(character: str) -> int:
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return 0
    name = re.split("[ -]", unicodedata.name(character, "OTHER"))[0]
    name = "LATIN" if name in LATIN_TOO else name
    return 1 << SCRIPTS.index(name if name in SCRIPTS else "OTHER")


def _is_control(character: str) -> bool:
    """Control and direction marks, zero-width spaces, private and unassigned characters, line separators."""
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp") and character not in JOINERS
