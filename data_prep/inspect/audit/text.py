"""What is measured of a transcript: counts and a hash, no text is kept."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Any

from data_prep.text import JOINERS

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


def measure_text(text: str) -> dict[str, Any]:
    """Columns of ROW (measures.py) that a transcript gives."""
    plain = comparable(text)
    scripts = scripts_of(text)
    unspaced = bool(scripts & bits(UNSPACED))
    words = text.split()
    return {
        "text_hash": hash_of(plain.encode("utf-8", "surrogatepass")),
        "letters": len(plain.replace(" ", "")),
        "words": 0 if unspaced else len(words),
        "longest_word": 0 if unspaced else max(map(len, words), default=0),
        "capitals": text.isupper(),
        "digits": sum(map(str.isdigit, text)),
        "markup": len(MARKUP.findall(text)),
        "control": 0 if text.isascii() and text.isprintable() else sum(map(_is_control, text)),
        "broken": 0 if text.isascii() else len(BROKEN.findall(text)),
        "scripts": scripts,
    }


def comparable(text: str) -> str:
    """The words alone: no case, no punctuation, compatible forms of characters made one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def hash_of(data: bytes | memoryview) -> int:
    """64 bits: among a million, one chance in thirty million that two differ and are taken for the same."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def scripts_of(text: str) -> int:
    """The scripts of its letters, a bit for each of SCRIPTS."""
    if text.isascii():
        return int(any(map(str.isalpha, text)))
    found = 0
    for character in set(text):
        found |= _script_bit(character)
    return found


def bits(names: tuple[str, ...]) -> int:
    return sum(1 << SCRIPTS.index(name) for name in names)


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
